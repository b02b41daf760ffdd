//! Rust names for the names of the datamodel.

use heck::ToUpperCamelCase;

/// `VM_guest_metrics` → `VmGuestMetrics`, `restartHVM` → `RestartHvm`, `changing_VCPUs` → `ChangingVcpus`.
pub(crate) fn camel(name: &str) -> String {
    name.split(['_', '-'])
        .map(|word| plural(word).to_upper_camel_case())
        .collect()
}

/// Makes one word of the plural of an abbreviation: `VCPUs` would be split before `Us`.
fn plural(word: &str) -> String {
    let is_plural = word
        .strip_suffix('s')
        .is_some_and(|stem| stem.len() > 1 && stem.bytes().all(|byte| byte.is_ascii_uppercase()));
    if is_plural {
        word.to_lowercase()
    } else {
        word.to_owned()
    }
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
