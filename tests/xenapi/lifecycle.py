"""Takes a VM from its template to its end with the official Python client."""

import client


class Lifecycle(client.Case):
    """The steps, in order; each asserts what it should find."""

    def state(self, vm):
        return self.api.VM.get_power_state(vm)

    def log_in(self):
        user = self.given["user"]
        details = self.fails(
            "SESSION_AUTHENTICATION_FAILED",
            self.session.login_with_password,
            user,
            "wrong",
            "1.0",
            "tests",
        )
        assert details == [user, "Authentication failure"], details
        super().log_in()
        host = self.api.session.get_this_host(self.session.handle)
        assert self.api.host.get_API_version_major(host) == "2", "integers are text"

    def clone(self):
        (template,) = self.api.VM.get_by_name_label(self.given["template"])
        vm = self.api.VM.clone(template, "from python: <&>\"ü")
        assert self.api.VM.get_is_a_template(vm) is True, "a clone stays a template"
        assert self.api.VM.get_name_label(vm) == "from python: <&>\"ü"
        assert self.fails("VM_IS_TEMPLATE", self.api.VM.start, vm, False, False) == [vm, "start"]
        return vm

    def provision(self, vm):
        self.api.VM.provision(vm)
        assert self.api.VM.get_is_a_template(vm) is False
        self.fails("PROVISION_ONLY_ALLOWED_ON_TEMPLATE", self.api.VM.provision, vm)
        self.api.VM.add_to_other_config(vm, "key", "value")
        assert self.fails(
            "MAP_DUPLICATE_KEY", self.api.VM.add_to_other_config, vm, "key", "value"
        ) == ["VM", "other_config", vm, "key"]
        self.api.VM.set_memory(vm, str(1 << 30))
        assert self.api.VM.get_memory_static_max(vm) == str(1 << 30)
        self.fails("MEMORY_CONSTRAINT_VIOLATION_ORDER", self.api.VM.set_memory, vm, "1")

    def start(self, vm):
        assert self.fails("VM_BAD_POWER_STATE", self.api.VM.hard_shutdown, vm) == [
            vm,
            "paused, suspended, running",
            "halted",
        ]
        record = self.finished(self.api.Async.VM.start(vm, False, False))
        assert record["status"] == "success", record
        assert record["result"] == "<value></value>", record
        assert record["progress"] == 1.0, record
        assert self.state(vm) == "Running"
        assert self.fails("VM_BAD_POWER_STATE", self.api.VM.start, vm, False, False) == [
            vm,
            "halted",
            "running",
        ]
        return self.address(vm)

    def address(self, vm):
        networks = self.api.VM_guest_metrics.get_networks(self.reported(vm))
        assert networks["0/ip"] == networks["0/ipv4/0"], networks
        batch = self.events("VM/" + vm, "")
        assert isinstance(batch["valid_ref_counts"]["vm"], int)
        return networks["0/ip"]

    def shut_down(self, vm):
        assert self.fails("VM_BAD_POWER_STATE", self.api.VM.destroy, vm) == [
            vm,
            "halted, suspended",
            "running",
        ]
        self.api.VM.clean_shutdown(vm)
        assert self.state(vm) == "Halted"

    def destroy(self, vm):
        disks = [self.api.VBD.get_VDI(vbd) for vbd in self.api.VM.get_VBDs(vm)]
        disks = [disk for disk in disks if disk != client.NULL]
        assert len(disks) == 1, disks
        self.api.VM.destroy(vm)
        assert self.fails("HANDLE_INVALID", self.api.VM.get_record, vm) == ["VM", vm]
        for disk in disks:
            self.api.VDI.destroy(disk)


def main():
    case = Lifecycle()
    case.log_in()
    vm = case.clone()
    case.provision(vm)
    print("address", case.start(vm))
    case.shut_down(vm)
    case.destroy(vm)
    case.log_out()
    print("done")


if __name__ == "__main__":
    main()
