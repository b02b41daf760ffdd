//! The built-in Lua 5.4, made to behave as the `lua` program does. No other file names mlua.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::rc::Rc;

use bioxen_vm_core::lua::{DRIVER, SESSION_DRIVER};
use mlua::chunk::ChunkMode;
use mlua::state::{GcGenParams, GcMode};
use mlua::{
    AnyUserData, Error, Function, Lua, LuaOptions, LuaString, MultiValue, ObjectLike, Result,
    StdLib, Table, UserData, Value,
};

/// The version of the built-in Lua.
pub(crate) const VERSION: &str = "5.4";

/// Changes the standard library of a fresh state.
const STDLIB: &str = include_str!("stdlib.lua");

/// What a state is made for.
#[derive(Clone)]
pub(crate) struct Setting {
    /// Bytes that the state may have.
    pub(crate) memory: usize,
    /// Whether programs may start others.
    pub(crate) processes: bool,
    /// Ends what a program has started.
    pub(crate) end_leftovers: Rc<dyn Fn()>,
    /// Makes a temporary file, and returns its name.
    pub(crate) temporary_name: fn() -> io::Result<String>,
    /// Set when a program has changed what outlives its state.
    pub(crate) changed: Rc<Cell<bool>>,
    pub(crate) compiled: Rc<Compiled>,
}

/// What every state runs first, compiled once.
pub(crate) struct Compiled {
    stdlib: Vec<u8>,
    driver: Vec<u8>,
}

impl Compiled {
    pub(crate) fn new() -> Result<Self> {
        let lua = Lua::new_with(StdLib::NONE, LuaOptions::new())?;
        let compile = |source: &str, name: &str| -> Result<Vec<u8>> {
            let function = lua.load(source).set_name(name).into_function()?;
            Ok(function.dump(false))
        };
        Ok(Self {
            stdlib: compile(STDLIB, "=stdlib")?,
            driver: compile(DRIVER, "=(command line)")?,
        })
    }
}

/// A fresh Lua state in which everything is ready but the program.
pub(crate) struct Fresh {
    lua: Lua,
    main: Function,
    /// What the driver reads.
    frame: Rc<RefCell<Frame>>,
}

/// The frame of a program, and how much of it has been read.
#[derive(Default)]
struct Frame {
    bytes: Vec<u8>,
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

/// Calls a function when the state is closed, after all finalizers of the program: they run in the
/// reverse order in which their objects were made, and this one is made first.
struct AtEnd(Rc<dyn Fn()>);

impl UserData for AtEnd {}

impl Drop for AtEnd {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// How the driver leaves a state, in place of `os.exit`, so that the process can go on.
#[derive(Debug)]
struct Leave(i32);

impl fmt::Display for Leave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit code {}", self.0)
    }
}

impl std::error::Error for Leave {}

impl Fresh {
    /// Makes a state.
    pub(crate) fn new(setting: &Setting) -> Result<Self> {
        let lua = Lua::new_with(StdLib::ALL_SAFE, LuaOptions::new())?;
        let end = AtEnd(Rc::clone(&setting.end_leftovers));
        lua.set_named_registry_value("bioxen.at_end", end)?;
        let globals = lua.globals();
        let debug = debug_library(&lua)?;
        globals.set("debug", &debug)?;
        lua.register_module("debug", debug)?;
        change_library(&lua, setting)?;
        seed(&globals)?;
        warn_on_request(&lua);
        let frame = Rc::default();
        let main = main_function(&lua, &globals, &setting.compiled.driver, &frame)?;
        // The mode that the lua program runs in.
        lua.gc_set_mode(GcMode::Generational(GcGenParams::default()));
        lua.set_memory_limit(setting.memory)?;
        Ok(Self { lua, main, frame })
    }

    /// Runs the driver, which reads a program from this frame, or from standard input where that is
    /// empty, and runs it, and closes the state. However that ends short of a crash, `end_leftovers`
    /// is called then.
    ///
    /// Returns the exit code. A program that ends by `os.exit` ends this process, and this function
    /// does not return.
    pub(crate) fn run(self, program: Vec<u8>) -> i32 {
        let Self { lua, main, frame } = self;
        frame.borrow_mut().bytes = program;
        Self::end(lua, main)
    }

    /// Runs the driver of sessions and then what serves requests until there are no more, and closes
    /// the state. Returns the exit code.
    pub(crate) fn keep_session(self, serve: &'static str) -> i32 {
        let Self { lua, .. } = self;
        let keep = lua.create_function(move |lua, ()| {
            for part in [SESSION_DRIVER, serve] {
                lua.load(part).set_name("=(command line)").exec()?;
            }
            Ok(())
        });
        match keep {
            Ok(keep) => Self::end(lua, keep),
            Err(error) => code_of(&error),
        }
    }

    fn end(lua: Lua, main: Function) -> i32 {
        let result = main.call(());
        drop(main);
        // Finalizers may still print, and fail.
        drop(lua);
        match result {
            Ok(()) => 0,
            Err(error) => code_of(&error),
        }
    }
}

/// The exit code that an error of the driver stands for. It has told what goes wrong in the
/// program; what goes wrong outside is told here.
fn code_of(error: &Error) -> i32 {
    let text = match error {
        Error::CallbackError { cause, .. } => return code_of(cause),
        Error::ExternalError(leave) if leave.is::<Leave>() => {
            return leave.downcast_ref::<Leave>().map_or(1, |leave| leave.0);
        }
        Error::MemoryError(_) => "not enough memory".to_owned(),
        error => error.to_string(),
    };
    let _ = writeln!(io::stderr(), "lua: {text}");
    1
}

/// The driver as a function, which leaves by an error of ours where it would end the process.
fn main_function(
    lua: &Lua,
    globals: &Table,
    driver: &[u8],
    frame: &Rc<RefCell<Frame>>,
) -> Result<Function> {
    let behind = |table: &Table, name: &str, value: Value| -> Result<Table> {
        let meta = lua.create_table()?;
        meta.set("__index", table)?;
        meta.set("__newindex", table)?;
        let front = lua.create_table()?;
        front.raw_set(name, value)?;
        front.set_metatable(Some(meta))?;
        Ok(front)
    };
    let leave =
        lua.create_function(|_, code: i32| -> Result<()> { Err(Error::external(Leave(code))) })?;
    let os = behind(&globals.get("os")?, "exit", Value::Function(leave))?;
    let environment = behind(globals, "os", Value::Table(os))?;
    let io: Table = globals.get("io")?;
    let stdin = framed_input(lua, io.get("stdin")?, frame)?;
    let io = behind(&io, "stdin", Value::Table(stdin))?;
    environment.raw_set("io", io)?;
    let driver = lua
        .load(driver)
        .set_mode(ChunkMode::Binary)
        .set_environment(environment)
        .into_function()?;
    // Called from a function of ours, as the lua program calls it from one of its own, so that a
    // traceback counts the same number of levels.
    lua.create_function(move |_, ()| driver.call::<()>(()))
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

fn change_library(lua: &Lua, setting: &Setting) -> Result<()> {
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
    let temporary_name = setting.temporary_name;
    let name = move |lua: &Lua, ()| match temporary_name() {
        Ok(name) => Ok((Value::String(lua.create_string(name)?), None)),
        Err(error) => Ok((Value::Nil, Some(error.to_string()))),
    };
    vm.set("temporary_name", lua.create_function(name)?)?;
    vm.set("processes", setting.processes)?;
    lua.load(&setting.compiled.stdlib)
        .set_mode(ChunkMode::Binary)
        .call(vm)
}

/// Seeds the random numbers: Lua takes the time in seconds and an address, both of which the next
/// state of this process may see again.
fn seed(globals: &Table) -> Result<()> {
    let random = || RandomState::new().build_hasher().finish().cast_signed();
    let math: Table = globals.get("math")?;
    math.get::<Function>("randomseed")?
        .call((random(), random()))
}

/// Does for this process what no program does: a state of its own that never runs one.
pub(crate) struct Housekeeper {
    _lua: Lua,
    flush: Function,
    restore: Function,
}

impl Housekeeper {
    pub(crate) fn new() -> Result<Self> {
        let lua = Lua::new_with(StdLib::IO | StdLib::OS, LuaOptions::new())?;
        let flush = lua
            .load("io.stdout:flush() io.stderr:flush()")
            .into_function()?;
        let restore = lua
            .load("if ... then io.stdin:read('a') end return os.setlocale() == 'C'")
            .into_function()?;
        Ok(Self {
            _lua: lua,
            flush,
            restore,
        })
    }

    /// Writes out what the C library still holds of the output.
    pub(crate) fn flush(&self) -> bool {
        self.flush.call::<()>(()).is_ok()
    }

    /// Drops what the C library still holds of the input, if there was any, and tells
    /// whether the process is as it was before a program ran.
    pub(crate) fn restore(&self, has_had_input: bool) -> bool {
        self.restore.call::<bool>(has_had_input).unwrap_or(false)
    }
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
