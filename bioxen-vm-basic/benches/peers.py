"""Runs Lua the ways that Python programs do, one run for each line that comes in, and answers with
its time in nanoseconds. The first line says whether the way can be gone at all."""

import io
import os
import sys
import tempfile
import time

way, code = sys.argv[1:3]
answer = sys.stdout
# One of them prints when it is imported, and makes a folder of logs where it is.
sys.stdout = io.StringIO()
os.chdir(tempfile.mkdtemp())

if way == "upstream":
    from pylua_bioxen_vm_lib import create_vm

    vm = create_vm("bench", lua_executable="lua5.4")

    def run():
        assert vm.execute_string(code)["stdout"] == "1"

elif way == "lupa":
    from lupa.lua54 import LuaRuntime

    def run():
        said = []
        runtime = LuaRuntime()
        runtime.globals().print = said.append
        runtime.execute(code)
        assert said == [1]


run()
print("ready", file=answer, flush=True)
for _ in sys.stdin:
    started = time.perf_counter_ns()
    run()
    print(time.perf_counter_ns() - started, file=answer, flush=True)
