"""What 32-bit ARM has no instruction for, in LLVM's language: division of 64-bit integers, rounding, conversion.

LLVM would call functions of a compiler's own library, which a device need not have, or of the C library once per lane.
Calls and instructions are replaced by functions of the module itself, with the same results for all numbers but
conversions of integers from 2^53 on to float32, which may be rounded twice.
"""

from __future__ import annotations

import re

# Rounding to even: what is added pushes the fraction out of the number, unless that has none.
_ROUND = """
define internal {type} @haste.round.{name}({type} %x) alwaysinline nounwind {{
  %a = call {type} @llvm.fabs.{name}({type} %x)
  %up = fadd {type} %a, {big}
  %down = fsub {type} %up, {big}
  %signed = call {type} @llvm.copysign.{name}({type} %down, {type} %x)
  %small = fcmp olt {type} %a, {big}
  %r = select {mask} %small, {type} %signed, {type} %x
  ret {type} %r
}}
declare {type} @llvm.fabs.{name}({type})
declare {type} @llvm.copysign.{name}({type}, {type})
"""
_WHOLE = {"f32": "8388608.0", "f64": "4503599627370496.0"}  # 2^23 and 2^52, from which on every number is whole
_TYPE = {"f32": "float", "f64": "double"}
_OTHERS = """
define internal double @haste.floor.f64(double %x) alwaysinline nounwind {
  %r = call double @haste.round.f64(double %x)
  %above = fcmp ogt double %r, %x
  %less = fsub double %r, 1.0
  %f = select i1 %above, double %less, double %r
  ret double %f
}
define internal double @haste.double(i64 %x) alwaysinline nounwind {
  %shifted = ashr i64 %x, 32
  %h = trunc i64 %shifted to i32
  %l = trunc i64 %x to i32
  %high = sitofp i32 %h to double
  %low = uitofp i32 %l to double
  %scaled = fmul double %high, 4294967296.0
  %d = fadd double %scaled, %low
  ret double %d
}
define internal float @haste.float(i64 %x) alwaysinline nounwind {
  %d = call double @haste.double(i64 %x)
  %f = fptrunc double %d to float
  ret float %f
}
"""
# Nearly all numbers fit 32 bits, which the CPU divides; the others are divided bit by bit.
_DIVISION = """
define internal i64 @haste.udiv(i64 %x, i64 %y) noinline nounwind {
entry:
  %both = or i64 %x, %y
  %large = icmp ugt i64 %both, 4294967295
  br i1 %large, label %long, label %short
short:
  %x32 = trunc i64 %x to i32
  %y32 = trunc i64 %y to i32
  %q32 = udiv i32 %x32, %y32
  %q64 = zext i32 %q32 to i64
  ret i64 %q64
long:
  br label %loop
loop:
  %i = phi i32 [ 0, %long ], [ %next, %loop ]
  %rest = phi i64 [ 0, %long ], [ %left, %loop ]
  %bits = phi i64 [ %x, %long ], [ %shifted, %loop ]
  %q = phi i64 [ 0, %long ], [ %found, %loop ]
  %top = lshr i64 %bits, 63
  %doubled = shl i64 %rest, 1
  %with = or i64 %doubled, %top
  %overflow = icmp slt i64 %rest, 0
  %enough = icmp uge i64 %with, %y
  %take = or i1 %overflow, %enough
  %reduced = sub i64 %with, %y
  %left = select i1 %take, i64 %reduced, i64 %with
  %one = zext i1 %take to i64
  %qq = shl i64 %q, 1
  %found = or i64 %qq, %one
  %shifted = shl i64 %bits, 1
  %next = add i32 %i, 1
  %end = icmp eq i32 %next, 64
  br i1 %end, label %done, label %loop
done:
  ret i64 %found
}
define internal i64 @haste.sdiv(i64 %x, i64 %y) noinline nounwind {
  %sx = ashr i64 %x, 63
  %sy = ashr i64 %y, 63
  %fx = xor i64 %x, %sx
  %fy = xor i64 %y, %sy
  %ax = sub i64 %fx, %sx
  %ay = sub i64 %fy, %sy
  %q = call i64 @haste.udiv(i64 %ax, i64 %ay)
  %s = xor i64 %sx, %sy
  %fq = xor i64 %q, %s
  %r = sub i64 %fq, %s
  ret i64 %r
}
define internal i64 @haste.urem(i64 %x, i64 %y) noinline nounwind {
  %q = call i64 @haste.udiv(i64 %x, i64 %y)
  %p = mul i64 %q, %y
  %r = sub i64 %x, %p
  ret i64 %r
}
define internal i64 @haste.srem(i64 %x, i64 %y) noinline nounwind {
  %q = call i64 @haste.sdiv(i64 %x, i64 %y)
  %p = mul i64 %q, %y
  %r = sub i64 %x, %p
  ret i64 %r
}
"""
_DIVIDE = re.compile(r"= ([su](?:div|rem)) (?:exact )?i64 ([^,\s]+), ([^,\s]+)")
_CONVERT = re.compile(r"= sitofp i64 (\S+) to (float|double)")
_ROUNDING = re.compile(r"@(?:llvm\.(?:roundeven|rint|nearbyint)\.((?:v\d+)?f(?:32|64))|(rintf|roundevenf)|rint)\(")
_FLOOR = re.compile(r"@(?:llvm\.floor\.f64|floor)\(")
_DECLARED = re.compile(r"^declare [^\n]*(?:@haste\.)[^\n]*\n", re.MULTILINE)


def _rounding(name: str) -> str:
    """The function that rounds numbers of a type, in LLVM's short name for it: f32, f64, v4f32 and the like."""
    count, element = (int(name[1:-3]), name[-3:]) if name.startswith("v") else (0, name)
    kind, mask, big = _TYPE[element], "i1", _WHOLE[element]
    if count:
        big = "<" + ", ".join([f"{kind} {big}"] * count) + ">"
        kind, mask = f"<{count} x {kind}>", f"<{count} x i1>"
    return _ROUND.format(name=name, type=kind, mask=mask, big=big)


def replace_arithmetic(module: str) -> str:
    """A module's text in which rounding and conversions are plain arithmetic. To be done before it is optimised."""
    module = _CONVERT.sub(r"= call \2 @haste.\2(i64 \1)", module)
    names = {"f64"}  # others build on it

    def rounding(match: re.Match[str]) -> str:
        name = match[1] or ("f32" if match[2] else "f64")
        names.add(name)
        return f"@haste.round.{name}("

    module = _ROUNDING.sub(rounding, module)
    module = _DECLARED.sub("", _FLOOR.sub("@haste.floor.f64(", module))
    present = set(re.findall(r"^declare [^@\n]*@([\w.]+)\(", module, re.MULTILINE))
    added = ("".join(map(_rounding, sorted(names))) + _OTHERS).splitlines()
    return module + "\n".join(
        line for line in added if not (line.startswith("declare") and re.findall(r"@([\w.]+)\(", line)[0] in present)
    )


def replace_divisions(module: str) -> str:
    """A module's text without divisions of 64-bit integers. To be done last: optimising makes divisions of its own."""
    return _DIVIDE.sub(r"= call i64 @haste.\1(i64 \2, i64 \3)", module) + _DIVISION
