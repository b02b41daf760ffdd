//! When a VM may do what: pure tables, shared by every handler that touches a VM.

use crate::failure::Failure;
use crate::value::Value;

/// The power states, as the API spells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Power {
    Halted,
    Paused,
    Suspended,
    Running,
}

impl Power {
    pub(crate) fn parse(text: &str) -> Power {
        match text {
            "Running" => Power::Running,
            "Paused" => Power::Paused,
            "Suspended" => Power::Suspended,
            _ => Power::Halted,
        }
    }

    /// The state after a start or a resume.
    pub(crate) fn awake(paused: bool) -> Power {
        if paused {
            Power::Paused
        } else {
            Power::Running
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Power::Halted => "Halted",
            Power::Paused => "Paused",
            Power::Suspended => "Suspended",
            Power::Running => "Running",
        }
    }

    /// The spelling in `VM_BAD_POWER_STATE`.
    pub(crate) fn lowercase(self) -> String {
        self.name().to_lowercase()
    }

    /// Whether a domain exists.
    pub(crate) fn is_live(self) -> bool {
        matches!(self, Power::Running | Power::Paused)
    }
}

/// What the tables look at.
#[derive(Debug, Clone)]
pub(crate) struct Vm {
    pub(crate) reference: String,
    pub(crate) power: Power,
    pub(crate) is_template: bool,
    pub(crate) is_default_template: bool,
    pub(crate) is_snapshot: bool,
    pub(crate) is_control_domain: bool,
    pub(crate) is_system_domain: bool,
    /// Whether its domain is certainly without full virtualisation.
    pub(crate) is_paravirtual: bool,
    pub(crate) in_appliance: Option<String>,
    pub(crate) nested_virt: bool,
    pub(crate) nomigrate: bool,
    /// Task or other key → operation.
    pub(crate) current: Vec<(String, String)>,
    pub(crate) blocked: Vec<(String, String)>,
    /// Whether the guest's drivers have reported a version.
    pub(crate) has_drivers: bool,
    /// What the guest's agent has reported of its features.
    pub(crate) agent: Vec<(String, Value)>,
    pub(crate) vtpms: usize,
}

/// The operations of `VM.allowed_operations`, in the order of the datamodel; the others are never
/// listed.
const LISTED: &[&str] = &[
    "snapshot",
    "clone",
    "copy",
    "revert",
    "checkpoint",
    "snapshot_with_quiesce",
    "provision",
    "start",
    "start_on",
    "pause",
    "unpause",
    "clean_shutdown",
    "clean_reboot",
    "hard_shutdown",
    "hard_reboot",
    "suspend",
    "resume",
    "resume_on",
    "pool_migrate",
    "migrate_send",
    "changing_dynamic_range",
    "changing_static_range",
    "changing_shadow_memory",
    "changing_VCPUs_live",
    "changing_NVRAM",
    "make_into_template",
    "export",
    "metadata_export",
    "destroy",
    "create_vtpm",
    "sysprep",
];

/// The operations that a VM allows, in the server's order: the last of the datamodel first.
pub(crate) fn allowed_operations(vm: &Vm) -> Vec<&'static str> {
    LISTED
        .iter()
        .rev()
        .filter(|operation| check(vm, operation).is_ok())
        .copied()
        .collect()
}

/// Refuses an operation with the first failure that a real server would find.
pub(crate) fn check(vm: &Vm, operation: &str) -> Result<(), Failure> {
    let this = vm.reference.as_str();
    if let Some((_, reason)) = vm.blocked.iter().find(|(blocked, _)| blocked == operation) {
        return Err(Failure::new("OPERATION_BLOCKED", [this, reason]));
    }
    let states = power_states(vm, operation);
    if !states.contains(&vm.power) {
        return Err(bad_power_state(this, states, vm.power));
    }
    if !vm.current.is_empty() && !goes_along(operation, &vm.current) {
        return Err(busy(vm));
    }
    if vm.is_snapshot {
        check_snapshot(vm, operation)?;
    } else if vm.is_template {
        check_template(vm, operation)?;
    }
    if operation == "provision" && !vm.is_template {
        return Err(Failure::code("PROVISION_ONLY_ALLOWED_ON_TEMPLATE"));
    }
    if operation == "revert" && !vm.is_snapshot {
        return Err(Failure::code("REVERT_ONLY_ALLOWED_ON_SNAPSHOT"));
    }
    let moves = matches!(
        operation,
        "suspend" | "checkpoint" | "pool_migrate" | "migrate_send"
    );
    if moves && (vm.nested_virt || vm.nomigrate) {
        return Err(Failure::new("VM_IS_IMMOBILE", [this]));
    }
    if operation == "changing_dynamic_range" && vm.nested_virt {
        return Err(Failure::new("VM_IS_USING_NESTED_VIRT", [this]));
    }
    if vm.is_control_domain {
        check_control_domain(operation)?;
    }
    check_features(vm, operation)?;
    if operation == "snapshot_with_quiesce" {
        return Err(Failure::new(
            "VM_SNAPSHOT_WITH_QUIESCE_NOT_SUPPORTED",
            [this],
        ));
    }
    if operation == "make_into_template"
        && let Some(appliance) = &vm.in_appliance
    {
        return Err(Failure::new(
            "VM_IS_PART_OF_AN_APPLIANCE",
            [this, appliance],
        ));
    }
    if operation == "query_services" && !vm.is_system_domain {
        return Err(Failure::new("NOT_SYSTEM_DOMAIN", [this]));
    }
    if operation == "create_vtpm" && vm.vtpms > 0 {
        return Err(Failure::new(
            "VTPM_MAX_AMOUNT_REACHED",
            [vm.vtpms.to_string()],
        ));
    }
    Ok(())
}

/// `VM_BAD_POWER_STATE` in the server's words.
pub(crate) fn bad_power_state(vm: &str, expected: &[Power], actual: Power) -> Failure {
    let expected: Vec<String> = expected.iter().map(|state| state.lowercase()).collect();
    Failure::new(
        "VM_BAD_POWER_STATE",
        [vm.to_owned(), expected.join(", "), actual.lowercase()],
    )
}

fn power_states(vm: &Vm, operation: &str) -> &'static [Power] {
    use Power::{Halted, Paused, Running, Suspended};
    match operation {
        "import" => &[],
        "changing_VCPUs" | "changing_static_range" | "changing_memory_limits" => {
            if vm.is_control_domain {
                &[Halted, Running]
            } else {
                &[Halted]
            }
        }
        "changing_shadow_memory"
        | "changing_NVRAM"
        | "make_into_template"
        | "provision"
        | "start"
        | "start_on"
        | "create_vtpm" => &[Halted],
        "unpause" => &[Paused],
        "csvm" | "resume" | "resume_on" => &[Suspended],
        "awaiting_memory_live"
        | "call_plugin"
        | "clean_reboot"
        | "clean_shutdown"
        | "changing_memory_live"
        | "changing_shadow_memory_live"
        | "changing_VCPUs_live"
        | "data_source_op"
        | "pause"
        | "pool_migrate"
        | "send_sysrq"
        | "send_trigger"
        | "snapshot_with_quiesce"
        | "sysprep"
        | "suspend" => &[Running],
        "changing_dynamic_range" => &[Halted, Running],
        "clone" | "copy" => {
            if vm.is_snapshot {
                &[Halted, Suspended]
            } else {
                &[Halted]
            }
        }
        "create_template" | "destroy" | "export" => &[Halted, Suspended],
        "hard_reboot" => &[Paused, Running],
        "checkpoint" | "get_boot_record" | "shutdown" | "hard_shutdown" => {
            &[Paused, Suspended, Running]
        }
        "migrate_send" => &[Halted, Suspended, Running],
        _ => &[Halted, Paused, Suspended, Running],
    }
}

/// Whether an operation may start while others run.
fn goes_along(operation: &str, current: &[(String, String)]) -> bool {
    let running: Vec<&str> = current
        .iter()
        .map(|(_, operation)| operation.as_str())
        .collect();
    let all_in = |set: &[&str]| set.contains(&operation) && running.iter().all(|o| set.contains(o));
    all_in(&["clone", "copy", "export"])
        || all_in(&["snapshot", "checkpoint"])
        || all_in(&["get_boot_record"])
        || match operation {
            "hard_shutdown" => !running.contains(&"hard_shutdown"),
            "hard_reboot" => !running
                .iter()
                .any(|o| matches!(*o, "hard_shutdown" | "hard_reboot")),
            "metadata_export" | "clean_shutdown" | "clean_reboot" => running == ["migrate_send"],
            _ => false,
        }
}

fn busy(vm: &Vm) -> Failure {
    let join = |items: Vec<&str>| match items.as_slice() {
        [one] => (*one).to_owned(),
        many => format!("{{{}}}", many.join(",")),
    };
    let tasks = join(vm.current.iter().map(|(task, _)| task.as_str()).collect());
    let operations = join(
        vm.current
            .iter()
            .map(|(_, operation)| operation.as_str())
            .collect(),
    );
    Failure::new(
        "OTHER_OPERATION_IN_PROGRESS",
        ["VM".to_owned(), vm.reference.clone(), operations, tasks],
    )
}

fn check_template(vm: &Vm, operation: &str) -> Result<(), Failure> {
    let allowed = matches!(
        operation,
        "changing_dynamic_range"
            | "changing_static_range"
            | "changing_memory_limits"
            | "changing_shadow_memory"
            | "changing_VCPUs"
            | "changing_NVRAM"
            | "clone"
            | "copy"
            | "export"
            | "metadata_export"
            | "provision"
    ) || (matches!(operation, "destroy" | "migrate_send") && !vm.is_default_template);
    if allowed {
        Ok(())
    } else {
        Err(Failure::new(
            "VM_IS_TEMPLATE",
            [vm.reference.as_str(), operation],
        ))
    }
}

fn check_snapshot(vm: &Vm, operation: &str) -> Result<(), Failure> {
    let allowed = matches!(
        operation,
        "revert" | "clone" | "copy" | "export" | "destroy" | "hard_shutdown" | "metadata_export"
    );
    if allowed {
        Ok(())
    } else {
        Err(Failure::new(
            "VM_IS_SNAPSHOT",
            [vm.reference.as_str(), operation],
        ))
    }
}

fn check_control_domain(operation: &str) -> Result<(), Failure> {
    match operation {
        "changing_VCPUs" | "destroy" => Err(Failure::not_allowed(
            "This operation is not allowed on dom0",
        )),
        "data_source_op"
        | "changing_memory_live"
        | "awaiting_memory_live"
        | "metadata_export"
        | "changing_dynamic_range"
        | "changing_memory_limits"
        | "changing_static_range"
        | "start"
        | "start_on" => Ok(()),
        _ => Err(Failure::not_allowed(
            "This operation is not allowed on a control domain",
        )),
    }
}

/// Operations that need the guest's help need the feature that its agent reports.
fn check_features(vm: &Vm, operation: &str) -> Result<(), Failure> {
    if vm.power != Power::Running || vm.is_paravirtual {
        return Ok(());
    }
    let told = |key: &str| vm.agent.iter().find(|(known, _)| known == key);
    let has = |feature: &str| told(feature).is_some_and(|(_, value)| value.as_str() == Some("1"));
    let able = match operation {
        "suspend" | "checkpoint" | "pool_migrate" | "migrate_send" => {
            if let Some((_, reason)) = told("data-cant-suspend-reason") {
                let reason = reason.as_str().unwrap_or_default();
                let params = [vm.reference.as_str(), reason];
                return Err(Failure::new("VM_LACKS_FEATURE", params));
            }
            has("feature-suspend")
        }
        "clean_shutdown" => has("feature-shutdown") || has("feature-poweroff"),
        "clean_reboot" => has("feature-shutdown") || has("feature-reboot"),
        "changing_VCPUs_live" => has("feature-vcpu-hotplug"),
        _ => true,
    };
    if able {
        Ok(())
    } else {
        Err(Failure::new("VM_LACKS_FEATURE", [vm.reference.as_str()]))
    }
}

#[cfg(test)]
mod tests;
