"""Runs Lua over SSH the ways that Python programs do, one run for each line that comes in, and
answers with its time in nanoseconds. The first line says whether the way can be gone at all."""

import asyncio
import sys
import time

way, port, user, key = sys.argv[1:]
COMMAND, CODE = "lua5.4 -", "print(1)"


def serve(run):
    run()
    print("ready", flush=True)
    for _ in sys.stdin:
        started = time.perf_counter_ns()
        run()
        print(time.perf_counter_ns() - started, flush=True)


if way == "asyncssh":
    import asyncssh

    loop = asyncio.new_event_loop()
    connection = loop.run_until_complete(
        asyncssh.connect(
            "127.0.0.1", int(port), username=user, client_keys=[key], known_hosts=None, config=[]
        )
    )

    def run():
        result = loop.run_until_complete(connection.run(COMMAND, input=CODE))
        assert result.stdout == "1\n"

elif way == "paramiko":
    import paramiko

    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    client.connect(
        "127.0.0.1", int(port), user, key_filename=key, allow_agent=False, look_for_keys=False
    )

    def run():
        stdin, stdout, _ = client.exec_command(COMMAND)
        stdin.write(CODE)
        stdin.channel.shutdown_write()
        assert stdout.read() == b"1\n"


serve(run)
