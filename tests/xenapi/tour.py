"""Walks through the classes of the API with the official Python client."""

import client
from client import NULL


class Tour(client.Case):
    """Each step looks at a class; the names are those of the API."""

    def pool(self):
        (pool,) = self.api.pool.get_all()
        record = self.api.pool.get_record(pool)
        assert record["master"] in self.api.host.get_all()
        assert record["ha_enabled"] is False and record["ha_cluster_stack"] == "xhad"
        assert self.api.pool.get_default_SR(pool) == record["default_SR"]
        self.api.pool.add_to_other_config(pool, "tour", "1")
        details = self.fails(
            "MAP_DUPLICATE_KEY", self.api.pool.add_to_other_config, pool, "tour", "2"
        )
        assert details == ["pool", "other_config", pool, "tour"], details
        self.api.pool.remove_from_other_config(pool, "tour")
        self.api.pool.remove_from_other_config(pool, "tour")
        assert "tour" not in self.api.pool.get_other_config(pool)

    def host(self):
        (host,) = self.api.host.get_all()
        record = self.api.host.get_record(host)
        assert record["enabled"] is True and record["API_version_vendor"] == "XenSource"
        assert record["virtual_hardware_platform_versions"] == ["0", "1", "2"]
        assert self.api.host.get_by_uuid(record["uuid"]) == host
        assert self.fails("UUID_INVALID", self.api.host.get_by_uuid, "nope") == ["host", "nope"]
        assert str(self.api.host.get_servertime(host)).endswith("Z")
        assert not str(self.api.host.get_server_localtime(host)).endswith("Z")
        self.api.host.disable(host)
        assert "reboot" in self.api.host.get_allowed_operations(host)
        self.api.host.enable(host)
        assert "reboot" not in self.api.host.get_allowed_operations(host)
        metrics = self.api.host_metrics.get_record(record["metrics"])
        assert metrics["live"] is True
        assert int(metrics["memory_total"]) > int(self.api.host.compute_free_memory(host)) > 0
        assert len(self.api.host_cpu.get_all()) == int(record["cpu_info"]["cpu_count"])
        assert self.api.VM.get_is_control_domain(record["control_domain"]) is True

    def storage(self):
        (sr,) = self.api.SR.get_by_name_label("Local storage")
        record = self.api.SR.get_record(sr)
        assert record["content_type"] == "user" and record["introduced_by"] == NULL
        (pbd,) = record["PBDs"]
        assert self.api.PBD.get_currently_attached(pbd) is True
        assert self.fails("SR_HAS_PBD", self.api.SR.forget, sr) == [sr]
        self.api.SR.scan(sr)
        used = int(self.api.SR.get_virtual_allocation(sr))
        vdi = self.api.VDI.create(
            {
                "SR": sr,
                "name_label": "tour",
                "virtual_size": str((1 << 30) + 1),
                "type": "user",
                "sharable": False,
                "read_only": False,
                "other_config": {"key": "value"},
            }
        )
        size = int(self.api.VDI.get_virtual_size(vdi))
        assert size >= (1 << 30) + 1, "sizes are rounded up"
        assert int(self.api.SR.get_virtual_allocation(sr)) == used + size
        self.api.VDI.resize(vdi, str(2 << 30))
        assert self.api.VDI.get_virtual_size(vdi) == str(2 << 30), "integers are text"
        snapshot = self.api.VDI.snapshot(vdi)
        assert self.api.VDI.get_snapshot_of(snapshot) == vdi
        assert self.api.VDI.get_snapshots(vdi) == [snapshot]
        clone = self.api.VDI.clone(vdi)
        record = self.api.VDI.get_record(clone)
        assert record["is_a_snapshot"] is False and record["other_config"] == {"key": "value"}
        assert record["allowed_operations"] == [
            "copy", "clone", "forget", "update", "resize", "snapshot", "destroy",
        ]
        for disk in (clone, snapshot):
            self.api.VDI.destroy(disk)
        assert self.api.VDI.get_snapshots(vdi) == []
        return vdi

    def networks(self):
        network = self.api.network.create(
            {"name_label": "tour", "name_description": "", "other_config": {}}
        )
        assert self.api.network.get_bridge(network).startswith("xapi")
        assert self.api.network.get_MTU(network) == "1500"
        self.api.network.set_tags(network, ["a", "b", "a"])
        self.api.network.add_tags(network, "b")
        self.api.network.remove_tags(network, "a")
        assert self.api.network.get_tags(network) == ["b"]
        (pif,) = self.api.PIF.get_all()
        record = self.api.PIF.get_record(pif)
        assert record["management"] is True and record["VLAN"] == "-1"
        assert self.fails("VLAN_TAG_INVALID", self.api.VLAN.create, pif, "4095", network) == ["4095"]
        vlan = self.api.VLAN.create(pif, "12", network)
        upper = self.api.VLAN.get_untagged_PIF(vlan)
        assert self.api.PIF.get_VLAN(upper) == "12" and self.api.PIF.get_physical(upper) is False
        assert self.fails("NETWORK_CONTAINS_PIF", self.api.network.destroy, network) == [upper]
        self.api.VLAN.destroy(vlan)
        return network

    def vm(self):
        (template,) = self.api.VM.get_by_name_label(self.given["template"])
        task = self.finished(self.api.Async.VM.clone(template, "tour"))
        assert task["status"] == "success" and task["error_info"] == [], task
        assert task["result"].startswith("<value>OpaqueRef:"), task
        vm = task["result"][len("<value>") : -len("</value>")]
        assert self.finished(self.api.Async.VM.provision(vm))["result"] == "<value></value>"
        record = self.api.VM.get_record(vm)
        assert record["power_state"] == "Halted" and record["resident_on"] == NULL
        assert record["domid"] == "-1" and record["HVM_shadow_multiplier"] == 1.0
        assert str(record["snapshot_time"]) == "19700101T00:00:00Z"
        assert record["other_config"]["base_template_name"] == self.given["template"]
        self.api.VM.set_memory_limits(vm, str(1 << 29), str(1 << 30), str(1 << 29), str(1 << 30))
        assert self.fails(
            "MEMORY_CONSTRAINT_VIOLATION_ORDER", self.api.VM.set_memory_dynamic_min, vm, str(2 << 30)
        ) == []
        rule = "VCPU values must satisfy: 0 < VCPUs_at_startup ≤ VCPUs_max"
        assert self.fails("INVALID_VALUE", self.api.VM.set_VCPUs_max, vm, "0") == [rule, "0"]
        self.api.VM.set_xenstore_data(vm, {"vm-data/key": "value"})
        self.api.VM.add_to_blocked_operations(vm, "start", "not now")
        assert self.fails("OPERATION_BLOCKED", self.api.VM.start, vm, False, False) == [vm, "not now"]
        self.api.VM.remove_from_blocked_operations(vm, "start")
        where = 'field "name__label" = "tour" and field "is_a_template" = "false"'
        assert list(self.api.VM.get_all_records_where(where)) == [vm]
        self.fails("INVALID_VALUE", self.api.VM.get_all_records_where, "name_label = tour")
        return vm

    def devices(self, vm, vdi, network):
        vbd = self.api.VBD.create(
            {
                "VM": vm,
                "VDI": vdi,
                "userdevice": "autodetect",
                "bootable": False,
                "mode": "RW",
                "type": "Disk",
                "empty": False,
                "other_config": {},
                "qos_algorithm_type": "",
                "qos_algorithm_params": {},
            }
        )
        assert self.api.VBD.get_userdevice(vbd) == "1"
        assert self.fails("VM_BAD_POWER_STATE", self.api.VBD.plug, vbd) == [vm, "running", "halted"]
        interface = {
            "VM": vm,
            "network": network,
            "device": "1",
            "MAC": "",
            "MTU": "1500",
            "other_config": {},
            "qos_algorithm_type": "",
            "qos_algorithm_params": {},
        }
        vif = self.api.VIF.create(interface)
        assert self.api.VIF.get_MAC_autogenerated(vif) is True
        assert self.api.VIF.get_locking_mode(vif) == "network_default"
        assert self.fails("DEVICE_ALREADY_EXISTS", self.api.VIF.create, interface) == ["1"]
        del interface["MAC"]
        assert self.fails("INTERNAL_ERROR", self.api.VIF.create, interface) == [
            'Server_helpers.Dispatcher_FieldNotFound("MAC")'
        ]
        assert "1" not in self.api.VM.get_allowed_VIF_devices(vm)
        return vbd, vif

    def run(self, vm, vbd, vif, vdi):
        batch = self.events("VM/" + vm, "")
        (event,) = batch["events"]
        assert event["operation"] == "add" and event["class"] == "vm", event
        assert event["timestamp"] == "0.0" and event["snapshot"]["name_label"] == "tour"
        assert self.finished(self.api.Async.VM.start(vm, False, False))["status"] == "success"
        (event,) = self.events("VM/" + vm, batch["token"])["events"]
        assert event["operation"] == "mod" and event["snapshot"]["power_state"] == "Running"
        metrics = self.api.VM_metrics.get_record(self.api.VM.get_metrics(vm))
        assert metrics["VCPUs_number"] == "2" and metrics["current_domain_type"] == "hvm"
        report = self.api.VM_guest_metrics.get_record(self.reported(vm))
        assert report["PV_drivers_detected"] is True and report["live"] is True
        assert self.api.VBD.get_allowed_operations(vbd) == [
            "attach", "unpause", "unplug", "unplug_force", "pause",
        ]
        assert self.fails("VDI_IN_USE", self.api.VDI.destroy, vdi) == [vdi, "destroy"]
        self.api.VBD.unplug(vbd)
        assert self.fails("DEVICE_ALREADY_DETACHED", self.api.VBD.unplug, vbd) == [vbd]
        text = "VIF currently attached to a running VM"
        assert self.fails("OPERATION_NOT_ALLOWED", self.api.VIF.destroy, vif) == [text]
        for step, state in [
            ("pause", "Paused"),
            ("unpause", "Running"),
            ("suspend", "Suspended"),
        ]:
            getattr(self.api.VM, step)(vm)
            assert self.api.VM.get_power_state(vm) == state
        self.api.VM.resume(vm, False, False)
        for console in self.api.VM.get_consoles(vm):
            assert self.api.console.get_protocol(console) == "rfb"
        self.api.VM.hard_shutdown(vm)
        assert self.api.VM.get_domid(vm) == "-1"

    def snapshots(self, vm):
        snapshot = self.api.VM.snapshot(vm, "before")
        assert self.api.VM.get_is_a_template(snapshot) is True
        assert self.api.VM.get_snapshot_info(snapshot) == {
            "disk-snapshot-type": "crash_consistent",
            "power-state-at-snapshot": "Halted",
        }
        assert self.fails("VM_IS_SNAPSHOT", self.api.VM.start, snapshot, False, False) == [
            snapshot,
            "start",
        ]
        self.api.VM.set_name_label(vm, "changed")
        self.api.VM.revert(snapshot)
        assert self.api.VM.get_name_label(vm) == "tour"
        assert self.api.VM.get_parent(vm) == snapshot
        self.remove(snapshot)

    def drivers(self):
        drivers = self.api.SM.get_all_records().values()
        types = {driver["type"] for driver in drivers}
        (host,) = self.api.host.get_all()
        assert set(self.api.SR.get_supported_types()) == types
        (nfs,) = [driver for driver in drivers if driver["type"] == "nfs"]
        assert nfs["features"]["VDI_MIRROR"] == "1", nfs["features"]
        (sr,) = self.api.SR.get_by_name_label("Shared storage")
        (pbd,) = self.api.SR.get_PBDs(sr)
        place = self.api.PBD.get_device_config(pbd)
        (found,) = self.api.SR.probe_ext(host, place, "nfs", {})
        assert found["sr"]["uuid"] == self.api.SR.get_uuid(sr)
        assert int(found["sr"]["total_space"]) == int(self.api.SR.get_physical_size(sr))
        self.fails("SR_BACKEND_FAILURE_101", self.api.SR.probe, host, {"server": "x"}, "nfs", {})
        self.fails("SR_UNKNOWN_DRIVER", self.api.SR.probe, host, {}, "floppy", {})

    def moves(self, vm):
        vbd = next(b for b in self.api.VM.get_VBDs(vm) if self.api.VBD.get_type(b) == "Disk")
        old = self.api.VBD.get_VDI(vbd)
        (target,) = self.api.SR.get_by_name_label("Shared storage")
        if self.api.VDI.get_SR(old) == target:
            (target,) = self.api.SR.get_by_name_label("Local storage")
        new = self.api.VDI.pool_migrate(old, target, {})
        assert self.api.VBD.get_VDI(vbd) == new != old
        assert self.api.VDI.get_SR(new) == target
        (host,) = self.api.host.get_all()
        pif = self.api.host.get_management_interface(host)
        dest = self.api.host.migrate_receive(host, self.api.PIF.get_network(pif), {})
        assert set(dest) == {"SM", "host", "xenops", "session_id", "master"}
        self.api.VM.assert_can_migrate(vm, dest, True, {}, {}, {})
        assert self.fails(
            "CANNOT_CONTACT_HOST",
            self.api.VM.assert_can_migrate,
            vm, {**dest, "host": "OpaqueRef:away", "master": "http://192.0.2.9/"}, True, {}, {}, {},
        ) == ["192.0.2.9"]

    def measurements(self):
        (host,) = self.api.host.get_all()
        sources = {s["name_label"]: s for s in self.api.host.get_data_sources(host)}
        assert sources["memory_total_kib"]["enabled"] is True
        value = self.api.host.query_data_source(host, "memory_total_kib")
        assert value == sources["memory_total_kib"]["value"] > 0
        assert "BEGIN CERTIFICATE" in self.api.host.get_server_certificate(host)

    def high_availability(self):
        (sr,) = self.api.SR.get_by_name_label("Shared storage")
        self.fails("HA_NOT_ENABLED", self.api.pool.disable_ha)
        self.api.pool.enable_ha([sr], {})
        (pool,) = self.api.pool.get_all()
        (statefile,) = self.api.pool.get_ha_statefiles(pool)
        assert self.fails("HA_IS_ENABLED", self.api.VDI.destroy, statefile) == []
        assert self.api.pool.ha_compute_max_host_failures_to_tolerate() == "0"
        self.api.pool.disable_ha()
        assert self.api.pool.get_ha_enabled(pool) is False

    def absent_hardware(self, vm):
        group = self.api.GPU_group.create("tour", "", {})
        assert self.fails(
            "GPU_GROUP_CONTAINS_NO_PGPUS", self.api.VGPU.create, vm, group, "0", {}
        ) == [group]
        self.api.GPU_group.destroy(group)
        assert self.api.PGPU.get_all() == [] and self.api.PUSB.get_all() == []

    def remove(self, vm):
        disks = [self.api.VBD.get_VDI(vbd) for vbd in self.api.VM.get_VBDs(vm)]
        self.api.VM.destroy(vm)
        for disk in disks:
            if disk != NULL:
                self.api.VDI.destroy(disk)

    def tasks(self):
        task = self.api.task.create("tour", "by hand")
        record = self.api.task.get_record(task)
        assert record["status"] == "pending" and record["type"] == "<none/>", record
        self.api.task.set_progress(task, 0.5)
        assert self.api.task.get_progress(task) == 0.5
        self.api.task.set_status(task, "success")
        self.api.task.destroy(task)
        assert self.fails("HANDLE_INVALID", self.api.task.get_status, task) == ["task", task]

    def messages_and_events(self):
        (pool,) = self.api.pool.get_all()
        uuid = self.api.pool.get_uuid(pool)
        token = self.api.event.inject("pool", pool)
        message = self.api.message.create("TOUR", "3", "Pool", uuid, "hello")
        batch = self.events("pool", token)
        assert [event["ref"] for event in batch["events"]] == [pool]
        assert batch["valid_ref_counts"]["pool"] == 1
        assert self.events("vm", "1000000000000,0", 0.0)["events"] == [], "of the future"
        self.fails("EVENT_FROM_TOKEN_PARSE_FAILURE", self.events, "vm", "garbage")
        assert self.api.message.get_record(message)["body"] == "hello"
        self.api.message.destroy(message)
        self.api.event.register(["vm"])
        self.api.event.unregister(["vm"])

    def sessions(self):
        handle = self.session.handle
        record = self.api.session.get_record(handle)
        assert record["auth_user_name"] == self.given["user"]
        assert record["is_local_superuser"] is True and record["originator"] == "tests"
        self.api.session.add_to_other_config(handle, "tour", "1")


def main():
    tour = Tour()
    tour.log_in()
    tour.pool()
    tour.host()
    vdi = tour.storage()
    network = tour.networks()
    vm = tour.vm()
    vbd, vif = tour.devices(vm, vdi, network)
    tour.run(vm, vbd, vif, vdi)
    tour.snapshots(vm)
    tour.drivers()
    tour.moves(vm)
    tour.measurements()
    tour.high_availability()
    tour.absent_hardware(vm)
    tour.remove(vm)
    tour.api.network.destroy(network)
    tour.tasks()
    tour.messages_and_events()
    tour.sessions()
    tour.log_out()
    messages = {name.removeprefix("Async.") for name in tour.calls}
    classes = {name.split(".")[0] for name in messages}
    print("messages", len(messages), "classes", len(classes))
    print("done")


if __name__ == "__main__":
    main()
