//! What is told when a program has failed for want of something that BioXen can give it.

use std::path::{Path, PathBuf, absolute};

use bioxen_vm_core::{LuaValue, LuaVm, Script, Status};
use bytes::Bytes;

/// Whether a program in a VM can open a file.
const CAN_OPEN: &str =
    "local file = io.open((...)) if file then file:close() end return file ~= nil";

/// Looks at how a program ended, the last that it said on standard error, and which files of this
/// machine it was given the names of.
pub(super) async fn after(vm: &dyn LuaVm, arguments: &[Bytes], status: Status, said: &[u8]) {
    if status != Status::Exited(1) {
        return;
    }
    let said = String::from_utf8_lossy(said);
    if let Some(module) = missing_module(&said) {
        tell(&rock_for(module));
    }
    for argument in arguments {
        let Some((argument, path)) = named(argument) else {
            continue;
        };
        if path.is_file() && !can_open(vm, argument).await {
            tell(&unreadable(argument, &path, vm.vm_type()));
        }
    }
}

/// An argument as the name of a file, and its full path.
fn named(argument: &Bytes) -> Option<(&str, PathBuf)> {
    let argument = std::str::from_utf8(argument).ok()?;
    Some((argument, absolute(argument).ok()?))
}

/// The module that a program ended for not finding.
fn missing_module(said: &str) -> Option<&str> {
    let error = said.rfind("\nlua: ").map_or(0, |at| at + 1);
    let error = said[error..].strip_prefix("lua: ")?.lines().next()?;
    let (_, rest) = error.split_once("module '")?;
    rest.strip_suffix("' not found:")
        .filter(|name| !name.contains(|c: char| c.is_whitespace() || c == '\''))
}

fn rock_for(module: &str) -> String {
    // The modules of our own rocks are called as those are.
    let ours = crate::rocks::embedded().map(|ours| ours.rocks().to_vec());
    let top = module.split('.').next();
    match ours
        .unwrap_or_default()
        .iter()
        .find(|rock| Some(rock.name.as_str()) == top)
    {
        Some(rock) => format!(
            "`--package {}` installs the rock of this module first",
            rock.name
        ),
        None => format!(
            "if the module {module} is one of a rock, `--package ROCK` installs that first; \
             `bioxen pkg search {module}` looks for rocks"
        ),
    }
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

    #[test]
    fn the_module_is_named_that_a_program_ended_for() {
        let said = "noise\nlua: main.lua:1: module 'pl.pretty' not found:\n\tno field\n";
        assert_eq!(missing_module(said), Some("pl.pretty"));
        assert_eq!(missing_module(&said[6..]), Some("pl.pretty"));
        // A program may say so and go on.
        assert_eq!(missing_module("module 'x' not found:\n"), None);
        assert_eq!(missing_module("lua: x.lua:1: no module\n"), None);
    }
}
