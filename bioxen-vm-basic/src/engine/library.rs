//! The standard library of a state, changed to what a VM promises.

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::rc::Rc;

use mlua::chunk::ChunkMode;
use mlua::{Function, Lua, Result, Table, Value};

use super::{Guest, Setting, tell};

pub(super) fn change_library(lua: &Lua, setting: &Setting, stdin: Option<&OwnedFd>) -> Result<()> {
    let vm = lua.create_table()?;
    let end_leftovers = Rc::clone(&setting.end_leftovers);
    let end = move |_: &Lua, ()| {
        end_leftovers();
        Ok(())
    };
    vm.set("end_leftovers", lua.create_function(end)?)?;
    let changed = Rc::clone(&setting.changed);
    let note = move |_: &Lua, ()| {
        changed.set(true);
        Ok(())
    };
    vm.set("process_changed", lua.create_function(note)?)?;
    let folder = setting.temporary_folder.clone();
    let name = move |lua: &Lua, ()| match temporary_name(&folder) {
        Ok(name) => Ok((Value::String(lua.create_string(name)?), None)),
        Err(error) => Ok((Value::Nil, Some(error.to_string()))),
    };
    vm.set("temporary_name", lua.create_function(name)?)?;
    vm.set("processes", setting.processes)?;
    if let Some(exits) = &setting.exits {
        exits.install(lua, &vm)?;
    }
    if let (Some(guest), Some(stdin)) = (&setting.guest, stdin) {
        vm.set("guest", guest.describe(lua, stdin)?)?;
        change(lua, &setting.compiled.guest, &vm)?;
    }
    change(lua, &setting.compiled.stdlib, &vm)
}

fn change(lua: &Lua, compiled: &[u8], vm: &Table) -> Result<()> {
    let change = lua.load(compiled).set_mode(ChunkMode::Binary);
    change.call(vm)
}

/// Makes a temporary file, and returns its name.
fn temporary_name(folder: &Path) -> io::Result<Vec<u8>> {
    let (_, path) = tempfile::Builder::new()
        .prefix("lua_")
        .tempfile_in(folder)?
        .keep()
        .map_err(|error| error.error)?;
    Ok(path.into_os_string().into_vec())
}

/// Seeds the random numbers: Lua takes the time in seconds and an address, both of which the next
/// state of this process may see again.
pub(super) fn seed(globals: &Table) -> Result<()> {
    let random = || RandomState::new().build_hasher().finish().cast_signed();
    let math: Table = globals.get("math")?;
    math.get::<Function>("randomseed")?
        .call((random(), random()))
}

/// Warnings are off until the program says `warn("@on")`.
pub(super) fn warn_on_request(lua: &Lua, guest: Option<Rc<Guest>>) {
    let on = Cell::new(false);
    let continued = Cell::new(false);
    lua.set_warning_function(move |_, message, more| {
        let first = !continued.replace(more);
        match message {
            "@on" if first && !more => on.set(true),
            "@off" if first && !more => on.set(false),
            _ if first && !more && message.starts_with('@') => {}
            _ if on.get() => {
                let start = if first { "Lua warning: " } else { "" };
                let end = if more { "" } else { "\n" };
                tell(guest.as_deref(), &format!("{start}{message}{end}"));
            }
            _ => {}
        }
        Ok(())
    });
}
