//! Writes manifests, in which LuaRocks and the curator look for rocks.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::Rock;

/// A manifest of rocks, each with the form of its file: `all`, `src`, `linux-x86_64`.
pub(crate) fn manifest<'r>(rocks: impl IntoIterator<Item = (Rock, &'r str)>) -> String {
    let mut all: BTreeMap<_, BTreeMap<_, Vec<&str>>> = BTreeMap::new();
    for (Rock { name, version }, form) in rocks {
        let versions = all.entry(name).or_default();
        versions.entry(version).or_default().push(form);
    }
    let mut text = String::from("commands = {}\nmodules = {}\nrepository = {\n");
    for (name, versions) in all {
        // Writing to a string does not fail. No name, version or form has a quote.
        let _ = writeln!(text, "   [\"{name}\"] = {{");
        for (version, forms) in versions {
            let _ = write!(text, "      [\"{version}\"] = {{");
            for form in forms {
                let _ = write!(text, " {{ arch = \"{form}\" }},");
            }
            text.push_str(" },\n");
        }
        text.push_str("   },\n");
    }
    text.push_str("}\n");
    text
}
