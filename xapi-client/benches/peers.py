"""The official Python client: prints the seconds of one run of a case."""
import sys, time
import XenAPI

url, case, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
session = XenAPI.Session(url)
session.xenapi.login_with_password("root", "p", "1.0", "bench")
session.xenapi.host.get_all()
start = time.perf_counter()
if case == "records":
    assert len(session.xenapi.VM.get_all_records()) == count
else:
    for _ in range(count):
        session.xenapi.host.get_all()
print(time.perf_counter() - start)
