"""A network as a service: pictures in from somewhere, answers out to whoever listens, steered by a policy meanwhile.

One module per concern: `sources` for where frames come from, `listeners` for who hears of the results, `journal` for
the files that are written, `notify` for systemd, `status` for what can be told about the service, `page` for the same
in a browser, `unit` for the unit file, and `loop`, which puts them together. ``haste-run serve`` is the command.
"""
