"""What the scripts beside this one share: a session of the official Python client that counts.

Reads what it needs from standard input as JSON: url, user, password, cafile, template.
"""

import json
import ssl
import sys
import xmlrpc.client

import XenAPI

NULL = "OpaqueRef:NULL"


class Counted:
    """A part of the API that notes the name of every call."""

    def __init__(self, target, calls, name=""):
        self._target = target
        self._calls = calls
        self._name = name

    def __getattr__(self, part):
        name = f"{self._name}.{part}" if self._name else part
        return Counted(getattr(self._target, part), self._calls, name)

    def __call__(self, *args):
        self._calls.append(self._name)
        return self._target(*args)


class Case:
    """A session. Its calls are in `calls`, those that failed too."""

    def __init__(self):
        self.given = json.load(sys.stdin)
        context = ssl.create_default_context(cafile=self.given["cafile"])
        self.session = XenAPI.Session(
            self.given["url"], transport=xmlrpc.client.SafeTransport(context=context)
        )
        self.calls = []
        self.api = Counted(self.session.xenapi, self.calls)

    def log_in(self):
        self.session.login_with_password(
            self.given["user"], self.given["password"], "1.0", "tests"
        )

    def log_out(self):
        handle = self.session.handle
        self.api.session.logout()
        # Past the client's own log-in-again.
        answer = self.session.VM.get_all(handle)
        assert answer["ErrorDescription"] == ["SESSION_INVALID", handle], answer

    def fails(self, code, call, *args):
        """Asserts that a call fails with this code, and gives the parameters."""
        try:
            result = call(*args)
        except XenAPI.Failure as failure:
            assert failure.details[0] == code, f"{failure.details} is not {code}"
            return failure.details[1:]
        raise AssertionError(f"{code} expected, got {result!r}")

    def events(self, subscription, token, timeout=30.0):
        # "from" is a keyword of Python.
        return getattr(self.api.event, "from")([subscription], token, timeout)

    def finished(self, task):
        """Waits for the end of a task, and gives its record."""
        token = ""
        while self.api.task.get_status(task) == "pending":
            token = self.events("task/" + task, token)["token"]
        record = self.api.task.get_record(task)
        self.api.task.destroy(task)
        return record

    def reported(self, vm):
        """Waits for the guest's report, and gives its metrics."""
        token = ""
        while True:
            metrics = self.api.VM.get_guest_metrics(vm)
            if metrics != NULL:
                return metrics
            token = self.events("VM/" + vm, token)["token"]
