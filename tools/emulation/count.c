/* A plugin for QEMU's user mode: how many instructions the emulated program has executed, and in which blocks.
 *
 *     qemu-aarch64 -plugin libcount.so,out=FILE[,blocks=N] ...
 *
 * The program marks a moment by asking for the process group of MARK, which is nobody's (`os.getpgid` in Python; the
 * call fails and does nothing). At each mark a line goes to FILE: "mark TOTAL", instructions since the start. With
 * blocks=N, up to N lines follow, "block EXECUTIONS ADDRESS BYTES" with the machine code in hexadecimal: the blocks
 * without a jump in them that took the most instructions since the mark before.
 *
 * Counts are exact for a program with one thread. Threads are counted together and may lose a few.
 */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qemu-plugin.h"

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

enum { MARK = 0x4a57e, ENTRIES = 65536 };

typedef struct Block {
    uint64_t address, executions;
    size_t instructions, size;
    unsigned char *code;
    struct Block *next, *newer; /* in its bucket; of all */
} Block;

static uint64_t total;
static FILE *out;
static long getpgid_number;
static int hottest;
static Block *buckets[ENTRIES], *all;

static Block *block_of(struct qemu_plugin_tb *tb, size_t instructions)
{
    uint64_t address = qemu_plugin_tb_vaddr(tb);
    Block **bucket = &buckets[(address >> 2) % ENTRIES], *block;
    for (block = *bucket; block; block = block->next) {
        if (block->address == address && block->instructions == instructions) {
            return block;
        }
    }
    block = calloc(1, sizeof *block);
    block->address = address;
    block->instructions = instructions;
    block->code = malloc(4 * instructions);
    for (size_t i = 0; i < instructions; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        size_t size = qemu_plugin_insn_size(insn);
        memcpy(block->code + block->size, qemu_plugin_insn_data(insn), size);
        block->size += size;
    }
    block->next = *bucket;
    *bucket = block;
    block->newer = all;
    all = block;
    return block;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    size_t instructions = qemu_plugin_tb_n_insns(tb);
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, &total, instructions);
    if (hottest) {
        Block *block = block_of(tb, instructions);
        qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, &block->executions, 1);
    }
}

static void tell_hottest(void)
{
    for (int i = 0; i < hottest; i++) {
        Block *most = NULL;
        for (Block *block = all; block; block = block->newer) {
            if (block->executions
                && (!most || block->executions * block->instructions > most->executions * most->instructions)) {
                most = block;
            }
        }
        if (!most) {
            return;
        }
        fprintf(out, "block %" PRIu64 " %" PRIx64 " ", most->executions, most->address);
        for (size_t byte = 0; byte < most->size; byte++) {
            fprintf(out, "%02x", most->code[byte]);
        }
        fputc('\n', out);
        most->executions = 0;
    }
}

static void called(qemu_plugin_id_t id, unsigned int vcpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3,
                   uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8)
{
    (void)id, (void)vcpu, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number != getpgid_number || a1 != MARK) {
        return;
    }
    fprintf(out, "mark %" PRIu64 "\n", total);
    tell_hottest();
    for (Block *block = all; block; block = block->newer) {
        block->executions = 0;
    }
    fflush(out);
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    for (int i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "out=", 4)) {
            out = fopen(argv[i] + 4, "w");
        } else if (!strncmp(argv[i], "blocks=", 7)) {
            hottest = atoi(argv[i] + 7);
        } else {
            return -1;
        }
    }
    getpgid_number = strcmp(info->target_name, "arm") ? 155 : 132; /* aarch64 has the numbers that are new to it */
    if (!out) {
        return -1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
