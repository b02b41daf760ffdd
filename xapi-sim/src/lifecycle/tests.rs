use super::*;

fn vm(power: Power) -> Vm {
    Vm {
        reference: "vm".to_owned(),
        power,
        is_template: false,
        is_default_template: false,
        is_snapshot: false,
        is_control_domain: false,
        is_system_domain: false,
        is_paravirtual: false,
        in_appliance: None,
        nested_virt: false,
        nomigrate: false,
        current: vec![],
        blocked: vec![],
        has_drivers: true,
        agent: ["shutdown", "suspend", "reboot", "vcpu-hotplug"]
            .map(|feature| (format!("feature-{feature}"), Value::from("1")))
            .to_vec(),
        vtpms: 0,
    }
}

/// The lists as a real server gave them.
#[test]
fn recorded_lists() {
    let mut template = vm(Power::Halted);
    template.is_template = true;
    template.is_default_template = true;
    assert_eq!(
        allowed_operations(&template),
        [
            "metadata_export",
            "export",
            "changing_NVRAM",
            "changing_shadow_memory",
            "changing_static_range",
            "changing_dynamic_range",
            "provision",
            "copy",
            "clone"
        ]
    );
    assert_eq!(
        allowed_operations(&vm(Power::Halted)),
        [
            "create_vtpm",
            "destroy",
            "metadata_export",
            "export",
            "make_into_template",
            "changing_NVRAM",
            "changing_shadow_memory",
            "changing_static_range",
            "changing_dynamic_range",
            "migrate_send",
            "start_on",
            "start",
            "copy",
            "clone",
            "snapshot"
        ]
    );
    assert_eq!(
        allowed_operations(&vm(Power::Running)),
        [
            "sysprep",
            "metadata_export",
            "changing_VCPUs_live",
            "changing_dynamic_range",
            "migrate_send",
            "pool_migrate",
            "suspend",
            "hard_reboot",
            "hard_shutdown",
            "clean_reboot",
            "clean_shutdown",
            "pause",
            "checkpoint",
            "snapshot"
        ]
    );
    let mut snapshot = vm(Power::Halted);
    snapshot.is_template = true;
    snapshot.is_snapshot = true;
    assert_eq!(
        allowed_operations(&snapshot),
        [
            "destroy",
            "metadata_export",
            "export",
            "revert",
            "copy",
            "clone"
        ]
    );
    let mut dom0 = vm(Power::Running);
    dom0.is_control_domain = true;
    assert_eq!(
        allowed_operations(&dom0),
        [
            "metadata_export",
            "changing_static_range",
            "changing_dynamic_range"
        ]
    );
}

#[test]
fn failures_in_the_servers_words() {
    let params = |failure: Result<(), Failure>| {
        let failure = failure.unwrap_err();
        (failure.code, failure.params.join("|"))
    };
    let state = "VM_BAD_POWER_STATE".to_owned();
    for (power, operation, text) in [
        (Power::Running, "start", "vm|halted|running"),
        (Power::Running, "destroy", "vm|halted, suspended|running"),
        (
            Power::Halted,
            "hard_shutdown",
            "vm|paused, suspended, running|halted",
        ),
        (Power::Suspended, "clone", "vm|halted|suspended"),
    ] {
        assert_eq!(
            params(check(&vm(power), operation)),
            (state.clone(), text.to_owned())
        );
    }
    let mut template = vm(Power::Halted);
    template.is_template = true;
    assert_eq!(
        params(check(&template, "start")),
        ("VM_IS_TEMPLATE".to_owned(), "vm|start".to_owned())
    );
    let mut no_tools = vm(Power::Running);
    no_tools.agent.clear();
    assert_eq!(
        params(check(&no_tools, "clean_shutdown")),
        ("VM_LACKS_FEATURE".to_owned(), "vm".to_owned())
    );
    assert!(check(&no_tools, "hard_shutdown").is_ok());
}

#[test]
fn concurrency() {
    let with = |operation: &str| {
        let mut vm = vm(Power::Halted);
        vm.current = vec![("task".to_owned(), operation.to_owned())];
        vm
    };
    assert!(check(&with("clone"), "copy").is_ok());
    assert!(check(&with("snapshot"), "checkpoint").is_err());
    assert_eq!(
        check(&with("start"), "clone"),
        Err(Failure::new(
            "OTHER_OPERATION_IN_PROGRESS",
            ["VM", "vm", "start", "task"]
        ))
    );
    let mut stopping = vm(Power::Running);
    stopping.current = vec![("task".to_owned(), "clean_shutdown".to_owned())];
    assert!(check(&stopping, "hard_shutdown").is_ok());
    assert!(check(&stopping, "clean_shutdown").is_err());
}
