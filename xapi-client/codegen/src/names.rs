//! Rust names for the names of the datamodel.

use heck::ToUpperCamelCase;

/// `VM_guest_metrics` → `VmGuestMetrics`, `task_status_type` → `TaskStatusType`.
pub(crate) fn type_name(name: &str) -> String {
    name.to_upper_camel_case()
}

/// `balance-slb` → `BalanceSlb`, `VM_BAD_POWER_STATE` → `VmBadPowerState`.
pub(crate) fn variant(value: &str) -> String {
    value.to_upper_camel_case()
}

/// `VCPUs_max` → `vcpus_max`, `type` → `type_`. Words are not split: `VBDs` is one word.
pub(crate) fn value_name(name: &str) -> String {
    let mut name = name.to_lowercase().replace('-', "_");
    // No keyword of any edition is also a word with an underscore at its end.
    if syn::parse_str::<syn::Ident>(&name).is_err() {
        name.push('_');
    }
    name
}
