//! The built-in Lua 5.4, made to behave as the `lua` program does. No other file names mlua.

use std::cell::Cell;
use std::io::{self, Write};

use bioxen_vm_core::lua::DRIVER;
use mlua::state::{GcGenParams, GcMode};
use mlua::{
    Error, Function, Lua, LuaOptions, LuaString, MultiValue, Result, StdLib, Table, UserData, Value,
};

/// The version of the built-in Lua.
pub(crate) const VERSION: &str = "5.4";

/// What takes the place of `os.exit`: it ends what the program has started, and then does the same.
///
/// With `close` the original closes the state first, and the program's finalizers, which run then,
/// may start more; [`AtEnd`] looks after that.
const EXIT: &str = r#"
local exit, end_leftovers, tonumber, tointeger, type, error = ...
return function(code, close)
  if code ~= nil and type(code) ~= "boolean" and not tointeger(tonumber(code)) then
    local problem = tonumber(code) and "number has no integer representation"
      or "number expected, got " .. type(code)
    error("bad argument #1 to 'exit' (" .. problem .. ")", 2)
  end
  if not close then end_leftovers() end
  exit(code, close)
end
"#;

/// Calls a function when the state is closed, after all finalizers of the program: they run in the
/// reverse order in which their objects were made, and this one is made first.
struct AtEnd(fn());

impl UserData for AtEnd {}

impl Drop for AtEnd {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Runs the driver, which reads a program from standard input and runs it. However it ends short
/// of a crash, `end_leftovers` is called then.
///
/// Returns whether it ended well. A program that ends by `os.exit` ends this process, and this
/// function does not return.
pub(crate) fn run(memory: usize, end_leftovers: fn()) -> bool {
    let lua = match prepare(memory, end_leftovers) {
        Ok(lua) => lua,
        Err(error) => return die(&error),
    };
    // Called from a function of ours, as the lua program calls it from one of its own, so that a
    // traceback counts the same number of levels.
    let drive = |lua: &Lua, ()| lua.load(DRIVER).set_name("=(command line)").exec();
    let result = lua.create_function(drive).and_then(|main| main.call(()));
    // Finalizers may still print, and fail.
    drop(lua);
    match result {
        Ok(()) => true,
        Err(error) => die(&error),
    }
}

/// Tells what went wrong outside of the program, and returns that it did. The driver tells what
/// goes wrong in it.
fn die(error: &Error) -> bool {
    let text = match error {
        Error::CallbackError { cause, .. } => return die(cause),
        Error::MemoryError(_) => "not enough memory".to_owned(),
        error => error.to_string(),
    };
    let _ = writeln!(io::stderr(), "lua: {text}");
    false
}

fn prepare(memory: usize, end_leftovers: fn()) -> Result<Lua> {
    let lua = Lua::new_with(StdLib::ALL_SAFE, LuaOptions::new())?;
    lua.set_named_registry_value("bioxen.at_end", AtEnd(end_leftovers))?;
    let globals = lua.globals();
    replace_exit(&lua, &globals, end_leftovers)?;
    let debug = debug_library(&lua)?;
    globals.set("debug", &debug)?;
    lua.register_module("debug", debug)?;
    explain_c_modules(&lua, &globals)?;
    warn_on_request(&lua);
    // The mode that the lua program runs in.
    lua.gc_set_mode(GcMode::Generational(GcGenParams::default()));
    lua.set_memory_limit(memory)?;
    Ok(lua)
}

fn replace_exit(lua: &Lua, globals: &Table, end_leftovers: fn()) -> Result<()> {
    let os: Table = globals.get("os")?;
    let original: Function = os.get("exit")?;
    let end_leftovers = lua.create_function(move |_, ()| {
        end_leftovers();
        Ok(())
    })?;
    let exit: Function = lua.load(EXIT).set_name("=os").call((
        original,
        end_leftovers,
        globals.get::<Function>("tonumber")?,
        globals.get::<Table>("math")?.get::<Function>("tointeger")?,
        globals.get::<Function>("type")?,
        globals.get::<Function>("error")?,
    ))?;
    os.set("exit", exit)
}

/// Says in the error of a failed `require` why no C module was looked for.
fn explain_c_modules(lua: &Lua, globals: &Table) -> Result<()> {
    let searchers: Table = globals.get::<Table>("package")?.get("searchers")?;
    let explain = lua.create_function(|_, ()| {
        Ok("\n\tno C module (the built-in Lua loads none; set lua_executable, \"lua5.4\" for example)")
    })?;
    searchers.raw_set(3, explain)
}

/// Warnings are off until the program says `warn("@on")`.
fn warn_on_request(lua: &Lua) {
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
                let _ = write!(io::stderr(), "{start}{message}{end}");
            }
            _ => {}
        }
        Ok(())
    });
}

/// The part of the library `debug` that cannot break the state: `traceback`, `getinfo` and
/// `getmetatable`.
fn debug_library(lua: &Lua) -> Result<Table> {
    let debug = lua.create_table()?;
    debug.set("traceback", lua.create_function(traceback)?)?;
    debug.set("getinfo", lua.create_function(getinfo)?)?;
    debug.set("getmetatable", lua.create_function(getmetatable)?)?;
    Ok(debug)
}

/// `debug.traceback([thread,] [message [, level]])`
fn traceback(lua: &Lua, mut args: MultiValue) -> Result<Value> {
    let other = take_thread(lua, &mut args);
    let message = match args.pop_front() {
        None | Some(Value::Nil) => None,
        Some(text @ (Value::String(_) | Value::Integer(_) | Value::Number(_))) => {
            lua.coerce_string(text)?
        }
        Some(value) => return Ok(value),
    };
    let trace = match level(lua, args.pop_front(), 1)? {
        // The stack of another coroutine cannot be walked from here.
        _ if other => lua.create_string("stack traceback:\n\t(of another coroutine)")?,
        Some(level) => lua.traceback(None, level)?,
        None => lua.create_string("stack traceback:")?,
    };
    match message {
        Some(message) => {
            // As a C string it ends at its first NUL byte, here as in the lua program.
            let message = message.as_bytes();
            let shown = message.split(|byte| *byte == 0).next().unwrap_or_default();
            let mut text = shown.to_vec();
            text.push(b'\n');
            text.extend_from_slice(&trace.as_bytes());
            Ok(Value::String(lua.create_string(text)?))
        }
        None => Ok(Value::String(trace)),
    }
}

/// `debug.getinfo([thread,] function or level [, what])`
fn getinfo(lua: &Lua, mut args: MultiValue) -> Result<Option<Table>> {
    if take_thread(lua, &mut args) {
        return Err(Error::runtime(
            "the built-in Lua cannot look into another coroutine",
        ));
    }
    let subject = args.pop_front().unwrap_or(Value::Nil);
    let what = match args.pop_front() {
        None | Some(Value::Nil) => "flnSrtu".to_owned(),
        Some(value) => lua
            .coerce_string(value)?
            .map(|what| what.to_string_lossy())
            .unwrap_or_default(),
    };
    if let Some(wrong) = what.chars().find(|c| !"SlnrutLf".contains(*c)) {
        return Err(Error::runtime(format!(
            "bad argument #2 to 'getinfo' (invalid option '{wrong}')"
        )));
    }
    if let Value::Function(function) = subject {
        return describe_function(lua, &function, &what).map(Some);
    }
    let Some(level) = level(lua, Some(subject), 0)? else {
        return Ok(None);
    };
    lua.inspect_stack(level, |frame| {
        let info = lua.create_table()?;
        if what.contains('S') {
            let source = frame.source();
            set_source(
                &info,
                source.source.as_deref(),
                source.short_src.as_deref(),
                source.what,
                [source.line_defined, source.last_line_defined],
            )?;
        }
        if what.contains('l') {
            info.set("currentline", line(frame.current_line()))?;
        }
        if what.contains('u') {
            let stack = frame.stack();
            info.set("nups", stack.num_upvalues)?;
            info.set("nparams", stack.num_params)?;
            info.set("isvararg", stack.is_vararg)?;
        }
        if what.contains('n') {
            let names = frame.names();
            info.set("name", names.name.as_deref())?;
            info.set("namewhat", names.name_what.unwrap_or(""))?;
        }
        if what.contains('t') {
            info.set("istailcall", frame.is_tail_call())?;
        }
        if what.contains('f') {
            info.set("func", frame.function())?;
        }
        Ok(info)
    })
    .transpose()
}

fn describe_function(lua: &Lua, function: &Function, what: &str) -> Result<Table> {
    let table = lua.create_table()?;
    let info = function.info();
    if what.contains('S') {
        set_source(
            &table,
            info.source.as_deref(),
            info.short_src.as_deref(),
            info.what,
            [info.line_defined, info.last_line_defined],
        )?;
    }
    if what.contains('l') {
        table.set("currentline", -1)?;
    }
    if what.contains('u') {
        table.set("nups", info.num_upvalues)?;
        table.set("nparams", info.num_params)?;
        table.set("isvararg", info.is_vararg)?;
    }
    if what.contains('n') {
        table.set("namewhat", "")?;
    }
    if what.contains('t') {
        table.set("istailcall", false)?;
    }
    if what.contains('f') {
        table.set("func", function)?;
    }
    Ok(table)
}

fn set_source(
    info: &Table,
    source: Option<&str>,
    short: Option<&str>,
    what: &str,
    lines: [Option<usize>; 2],
) -> Result<()> {
    info.set("source", source)?;
    info.set("short_src", short)?;
    info.set("what", what)?;
    info.set("linedefined", line(lines[0]))?;
    info.set("lastlinedefined", line(lines[1]))
}

fn line(number: Option<usize>) -> i64 {
    number
        .and_then(|line| i64::try_from(line).ok())
        .unwrap_or(-1)
}

/// `debug.getmetatable(value)`, which the field `__metatable` does not hide anything from.
fn getmetatable(lua: &Lua, value: Value) -> Result<Option<Table>> {
    Ok(match value {
        Value::Table(table) => table.metatable(),
        Value::String(_) => lua.type_metatable::<LuaString>(),
        _ => None,
    })
}

/// Takes a leading coroutine off the arguments, and tells whether it is another than the running.
fn take_thread(lua: &Lua, args: &mut MultiValue) -> bool {
    match args.front() {
        Some(Value::Thread(thread)) => {
            let other = *thread != lua.current_thread();
            args.pop_front();
            other
        }
        _ => false,
    }
}

/// A level of the stack; `None` when there can be none of that number.
fn level(lua: &Lua, value: Option<Value>, default: usize) -> Result<Option<usize>> {
    match value {
        None | Some(Value::Nil) => Ok(Some(default)),
        Some(value) => {
            let kind = value.type_name();
            match lua.coerce_integer(value)? {
                Some(level) => Ok(usize::try_from(level).ok()),
                None => Err(Error::runtime(format!(
                    "bad level (number expected, got {kind})"
                ))),
            }
        }
    }
}
