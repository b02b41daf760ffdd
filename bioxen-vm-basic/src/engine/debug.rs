//! The part of the library `debug` that cannot break the state: `traceback`, `getinfo` and
//! `getmetatable`.

use mlua::{Error, Function, Lua, LuaString, MultiValue, Result, Table, Value};

/// Makes it.
pub(super) fn library(lua: &Lua) -> Result<Table> {
    let debug = lua.create_table()?;
    debug.set("traceback", tracer(lua, 0)?)?;
    debug.set("getinfo", lua.create_function(getinfo)?)?;
    debug.set("getmetatable", lua.create_function(getmetatable)?)?;
    Ok(debug)
}

/// A `debug.traceback` that leaves out so many frames beyond those that it is told to.
pub(super) fn tracer(lua: &Lua, skipped: usize) -> Result<Function> {
    lua.create_function(move |lua, args| traceback(lua, args, skipped))
}

/// `debug.traceback([thread,] [message [, level]])`
fn traceback(lua: &Lua, mut args: MultiValue, skipped: usize) -> Result<Value> {
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
        Some(level) => lua.traceback(None, level + skipped)?,
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
        // An error of ours, which hides its own: what matters of it is that it has a text.
        Value::Error(_) => {
            let meta = lua.create_table()?;
            meta.set("__tostring", lua.globals().get::<Value>("tostring")?)?;
            Some(meta)
        }
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
