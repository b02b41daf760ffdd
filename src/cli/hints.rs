//! What is told when a program has failed for want of something that BioXen can give it.

use std::path::{Path, PathBuf, absolute};

use bioxen_vm_core::words::distance;
use bioxen_vm_core::{LuaValue, LuaVm, Script, Status};
use bytes::Bytes;

/// Whether a program in a VM can open a file.
const CAN_OPEN: &str =
    "local file = io.open((...)) if file then file:close() end return file ~= nil";

/// What is known of the VM that a program ran in.
pub(super) struct Place<'a> {
    /// The names of the rocks that were installed for the program.
    pub(super) rocks: Vec<&'a str>,
    /// The VM, where it is one of a pool that stays.
    pub(super) existing: Option<&'a str>,
}

/// Looks at how a program ended, the last that it said on standard error, and which files of this
/// machine it was given the names of.
pub(super) async fn after(
    vm: &dyn LuaVm,
    place: &Place<'_>,
    arguments: &[Bytes],
    status: Status,
    said: &[u8],
) {
    if status != Status::Exited(1) {
        return;
    }
    after_words(&String::from_utf8_lossy(said), place);
    for argument in arguments {
        let Some((argument, path)) = named(argument) else {
            continue;
        };
        if path.is_file() && !can_open(vm, argument).await {
            tell(&unreadable(argument, &path, vm.vm_type()));
        }
    }
}

/// The same for one of which only its last words are known.
pub(super) fn after_words(said: &str, place: &Place<'_>) {
    let error = said.rfind("\nlua: ").map_or(0, |at| at + 1);
    if let Some(message) = said[error..].strip_prefix("lua: ") {
        after_error(message, place);
    }
}

/// The same for the message of an error.
pub(super) fn after_error(message: &str, place: &Place<'_>) {
    if let Some(module) = missing_module(message) {
        let ours = crate::rocks::embedded().map(|ours| ours.rocks().to_vec());
        let ours = ours.unwrap_or_default();
        let ours: Vec<_> = ours.iter().map(|rock| rock.name.as_str()).collect();
        tell(&rock_for(module, &ours, place));
    }
}

/// An argument as the name of a file, and its full path.
fn named(argument: &Bytes) -> Option<(&str, PathBuf)> {
    let argument = std::str::from_utf8(argument).ok()?;
    Some((argument, absolute(argument).ok()?))
}

/// The module that a program ended for not finding.
fn missing_module(message: &str) -> Option<&str> {
    let (_, rest) = message.lines().next()?.split_once("module '")?;
    rest.strip_suffix("' not found:")
        .filter(|name| !name.contains(|c: char| c.is_whitespace() || c == '\''))
}

/// How to get a module. Those of our own rocks are called as the rocks are.
fn rock_for(module: &str, ours: &[&str], place: &Place<'_>) -> String {
    let top = module.split('.').next().unwrap_or(module);
    let Some(rock) = meant(top, ours) else {
        return format!(
            "if {module} is a module of a rock, `--package ROCK` installs that first; \
             `bioxen pkg search {top}` looks for rocks"
        );
    };
    if place.rocks.contains(&rock) {
        return format!("the rock {rock} is installed, and has no module {module}");
    }
    let what = match rock == top {
        true => format!("the rock {rock} of this project? `--package {rock}` installs it"),
        false => {
            format!(
                "{rock}, a rock of this project? `--package {rock}` installs it for `require '{rock}'`"
            )
        }
    };
    match place.existing {
        Some(vm) => format!("did you mean {what}, as does `bioxen pkg --vm {vm} install {rock}`"),
        None => format!("did you mean {what}"),
    }
}

/// The one of our rocks that a name was probably meant for.
fn meant<'r>(name: &str, ours: &[&'r str]) -> Option<&'r str> {
    /// A part of a name that is shorter could be one of anything.
    const TELLING: usize = 5;
    let name = name.to_lowercase().replace('-', "_");
    let nearest = |rock: &&&str| distance(&name, rock);
    let is_meant = |rock: &&&str| {
        let is_part = name.len() >= TELLING && rock.contains(&name);
        is_part || distance(&name, rock) <= 1 + rock.len() / 8
    };
    ours.iter().filter(is_meant).min_by_key(nearest).copied()
}

async fn can_open(vm: &dyn LuaVm, path: &str) -> bool {
    let outcome = vm.execute(Script::new(CAN_OPEN).arg(path.to_owned())).await;
    // Where that cannot be told there is nothing to say about it.
    !outcome.is_ok_and(|outcome| outcome.returned.first() == Some(&LuaValue::Boolean(false)))
}

fn unreadable(argument: &str, path: &Path, vm_type: &str) -> String {
    let set = match vm_type {
        "basic" => format!(
            ", `--set 'read=[{:?}]'` and its full path open it",
            path.display()
        ),
        _ => String::new(),
    };
    format!(
        "programs in the VM do not see {argument} of this machine: `--put {argument}` copies it into \
         the VM, `--stdin {argument}` makes it standard input{set}"
    )
}

fn tell(text: &str) {
    super::telemetry::say("INFO", &format!("bioxen: hint: {text}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: [&str; 2] = ["bio_compute", "bio_sequence_analysis"];

    #[test]
    fn the_module_is_named_that_a_program_ended_for() {
        let message = "main.lua:1: module 'pl.pretty' not found:\n\tno field\n";
        assert_eq!(missing_module(message), Some("pl.pretty"));
        // A program may say so and go on, and may speak of something else.
        assert_eq!(missing_module("x.lua:1: none\nmodule 'x' not found:"), None);
        assert_eq!(missing_module("x.lua:1: no module\n"), None);
    }

    #[test]
    fn rocks_of_our_own_are_meant_by_their_names_and_by_what_is_like_them() {
        for (name, rock) in [
            ("bio_compute", Some(OURS[0])),
            ("bio-compute", Some(OURS[0])),
            ("Bio_Compute", Some(OURS[0])),
            ("bio_sequence", Some(OURS[1])),
            ("bio_sequnce_analysis", Some(OURS[1])),
            ("bio", None),
            ("lpeg", None),
        ] {
            assert_eq!(meant(name, &OURS), rock, "{name}");
        }
    }

    #[test]
    fn a_rock_that_is_there_is_not_offered_again() {
        let place = |rocks, existing| Place { rocks, existing };
        let hint = rock_for("bio_compute.x", &OURS, &place(vec![], None));
        assert!(hint.contains("`--package bio_compute`"), "{hint}");
        let hint = rock_for("bio_compute.x", &OURS, &place(vec![], Some("lab")));
        assert!(
            hint.ends_with("`bioxen pkg --vm lab install bio_compute`"),
            "{hint}"
        );
        let hint = rock_for("bio_compute.x", &OURS, &place(vec![OURS[0]], None));
        assert!(hint.contains("has no module bio_compute.x"), "{hint}");
    }
}
