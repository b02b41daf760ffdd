//! The driver of programs in a state of this process: what it reads, sees and makes, and how it leaves.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use bioxen_vm_core::lua::{DRIVER, VALUES};
use mlua::chunk::ChunkMode;
use mlua::{AnyUserData, Error, Function, Lua, ObjectLike, Result, Table, Value};

use super::{Compiled, Setting, debug};

/// In place of the part of the driver that makes data of values: lets it have that only when there are
/// any, with the functions of before the program, which may change them.
const LAZILY: &str = "\
local value_data
do
  local encode, pristine = encode_values, {
    type = type, next = next, rawget = rawget, pcall = pcall, tostring = tostring,
    math = {floor = math.floor, huge = math.huge, type = math.type},
    string = {format = string.format, find = string.find}, table = {concat = table.concat},
  }
  function value_data(values, first) return encode(pristine, values, first) end
end
";

/// The driver with `LAZILY`, on the same lines, which tracebacks show.
pub(super) fn lazy_driver() -> String {
    let missing = VALUES
        .lines()
        .count()
        .saturating_sub(LAZILY.lines().count());
    DRIVER.replace(VALUES, &(LAZILY.to_owned() + &"\n".repeat(missing)))
}

/// The frame of a program, and how much of it has been read.
#[derive(Default)]
pub(super) struct Frame {
    pub(super) bytes: Vec<u8>,
    read: usize,
}

impl Frame {
    /// The next line without its end, or so many bytes.
    fn next(&mut self, length: Option<usize>) -> &[u8] {
        let rest = &self.bytes[self.read..];
        let (length, skip) = match length {
            Some(length) => (length.min(rest.len()), 0),
            None => match rest.iter().position(|byte| *byte == b'\n') {
                Some(length) => (length, 1),
                None => (rest.len(), 0),
            },
        };
        self.read += length + skip;
        &rest[..length]
    }
}

/// How the driver leaves a state, in place of `os.exit`, so that the process can go on.
#[derive(Debug)]
pub(super) struct Leave(pub(super) i32);

impl fmt::Display for Leave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit code {}", self.0)
    }
}

impl std::error::Error for Leave {}

/// A table that shows another one, but for one value in front of it.
pub(super) fn behind(lua: &Lua, table: &Table, name: &str, value: Value) -> Result<Table> {
    let meta = lua.create_table()?;
    meta.set("__index", table)?;
    meta.set("__newindex", table)?;
    let front = lua.create_table()?;
    front.raw_set(name, value)?;
    front.set_metatable(Some(meta))?;
    Ok(front)
}

/// What a driver sees in a state whose `xpcall` wraps the handler of errors: the handler of a driver
/// leaves the wrapper out of its tracebacks.
pub(super) fn tracing_environment(lua: &Lua, globals: &Table) -> Result<Table> {
    let tracer = Value::Function(debug::tracer(lua, 1)?);
    let debug = behind(lua, &globals.get("debug")?, "traceback", tracer)?;
    behind(lua, globals, "debug", Value::Table(debug))
}

/// The driver as a function, which leaves by an error of ours where it would end the process.
pub(super) fn main_function(
    lua: &Lua,
    globals: &Table,
    setting: &Setting,
    frame: &Rc<RefCell<Frame>>,
) -> Result<Function> {
    let leave =
        lua.create_function(|_, code: i32| -> Result<()> { Err(Error::external(Leave(code))) })?;
    let os = behind(lua, &globals.get("os")?, "exit", Value::Function(leave))?;
    let environment = match setting.exits.is_some() {
        true => tracing_environment(lua, globals)?,
        false => globals.clone(),
    };
    let environment = behind(lua, &environment, "os", Value::Table(os))?;
    let io: Table = globals.get("io")?;
    let stdin = framed_input(lua, io.get("stdin")?, frame)?;
    let io = behind(lua, &io, "stdin", Value::Table(stdin))?;
    environment.raw_set("io", io)?;
    // Not as an argument, which would take a place on the stack that the lua program leaves.
    environment.raw_set("encode_values", encoder(lua, &setting.compiled)?)?;
    let driver = lua
        .load(&setting.compiled.driver)
        .set_mode(ChunkMode::Binary)
        .set_environment(environment)
        .into_function()?;
    // Called from a function of ours, as the lua program calls it from one of its own, so that a
    // traceback counts the same number of levels.
    lua.create_function(move |_, ()| driver.call::<()>(()))
}

/// What makes data of values, loaded when it is called.
fn encoder(lua: &Lua, compiled: &Rc<Compiled>) -> Result<Function> {
    let compiled = Rc::clone(compiled);
    lua.create_function(
        move |lua, (pristine, values, first): (Table, Value, Value)| {
            let loaded = lua
                .load(&compiled.values)
                .set_mode(ChunkMode::Binary)
                .set_environment(pristine);
            let encode: Result<Function> = loaded.call(());
            let encoded = encode.and_then(|encode| encode.call::<(Value, Value)>((values, first)));
            match encoded {
                Ok(encoded) => Ok(encoded),
                // There is no other reason.
                Err(_) => {
                    let problem = lua.create_string("a value that does not fit into memory")?;
                    Ok((
                        Value::String(lua.create_string("N")?),
                        Value::String(problem),
                    ))
                }
            }
        },
    )
}

/// Standard input as the driver sees it: the frame, and the real one where there is no frame.
fn framed_input(lua: &Lua, stdin: AnyUserData, frame: &Rc<RefCell<Frame>>) -> Result<Table> {
    let input = lua.create_table()?;
    let frame = Rc::clone(frame);
    let read = move |lua: &Lua, (_, what): (Value, Value)| {
        let mut frame = frame.borrow_mut();
        if frame.bytes.is_empty() {
            return stdin.call_method::<Value>("read", what);
        }
        let length = what.as_usize();
        Ok(Value::String(lua.create_string(frame.next(length))?))
    };
    input.raw_set("read", lua.create_function(read)?)?;
    Ok(input)
}
