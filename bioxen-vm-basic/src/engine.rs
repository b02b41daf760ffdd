//! The built-in Lua 5.4, made to behave as the `lua` program does. No other place names mlua.

mod debug;
mod guest;
mod leaving;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bioxen_vm_core::lua::{DRIVER, SESSION_DRIVER, VALUES};
use mlua::chunk::ChunkMode;
use mlua::state::{GcGenParams, GcMode};
use mlua::{
    AnyUserData, Error, Function, Lua, LuaOptions, ObjectLike, Result, StdLib, Table, Value,
};

pub(crate) use guest::Guest;
pub(crate) use leaving::Exits;

/// The version of the built-in Lua.
pub(crate) const VERSION: &str = "5.4";

/// Changes the standard library of a fresh state.
const STDLIB: &str = include_str!("stdlib.lua");

/// Changes it before that for a state that shares its process.
const GUEST: &str = include_str!("guest.lua");

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

/// What a state is made for.
#[derive(Clone)]
pub(crate) struct Setting {
    /// Bytes that the state may have.
    pub(crate) memory: usize,
    /// Whether programs may start others.
    pub(crate) processes: bool,
    /// Ends what a program has started.
    pub(crate) end_leftovers: Rc<dyn Fn()>,
    /// Where temporary files are made.
    pub(crate) temporary_folder: PathBuf,
    /// Set when a program has changed what outlives its state.
    pub(crate) changed: Rc<Cell<bool>>,
    pub(crate) compiled: Rc<Compiled>,
    /// How the state is left from outside. It computes at less than half of its speed then.
    pub(crate) exits: Option<Exits>,
    /// Where it is one of several in its process.
    pub(crate) guest: Option<Rc<Guest>>,
}

/// What every state runs first, compiled once.
pub(crate) struct Compiled {
    stdlib: Vec<u8>,
    guest: Vec<u8>,
    driver: Vec<u8>,
    values: Vec<u8>,
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
            guest: compile(GUEST, "=stdlib")?,
            driver: compile(&lazy_driver(), "=(command line)")?,
            values: compile(&format!("{VALUES}return value_data"), "=(command line)")?,
        })
    }
}

/// The driver with `LAZILY`, on the same lines, which tracebacks show.
fn lazy_driver() -> String {
    let missing = VALUES
        .lines()
        .count()
        .saturating_sub(LAZILY.lines().count());
    DRIVER.replace(VALUES, &(LAZILY.to_owned() + &"\n".repeat(missing)))
}

/// A fresh Lua state in which everything is ready but the program.
pub(crate) struct Fresh {
    lua: Lua,
    main: Function,
    /// What the driver reads.
    frame: Rc<RefCell<Frame>>,
    exits: Option<Exits>,
    guest: Option<Rc<Guest>>,
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
        Self::reading(setting, None)
    }

    /// Makes a state whose standard input is this one, where it is not that of its process.
    pub(crate) fn reading(setting: &Setting, stdin: Option<&OwnedFd>) -> Result<Self> {
        // Who is left in the midst of its program must be left past its `pcall`.
        let options = LuaOptions::new().catch_rust_panics(setting.exits.is_none());
        let lua = uncollected(options)?;
        // All that is made from here on stays.
        lua.gc_stop();
        let end = AtEnd(Rc::clone(&setting.end_leftovers));
        let holder = lua.create_function(move |_, ()| {
            let _held = &end;
            Ok(())
        })?;
        lua.set_named_registry_value("bioxen.at_end", holder)?;
        lua.load_std_libs(StdLib::ALL_SAFE)?;
        let globals = lua.globals();
        let debug = debug::library(&lua)?;
        globals.set("debug", &debug)?;
        lua.register_module("debug", debug)?;
        change_library(&lua, setting, stdin)?;
        seed(&globals)?;
        warn_on_request(&lua, setting.guest.clone());
        let frame = Rc::default();
        let main = main_function(&lua, &globals, setting, &frame)?;
        lua.gc_restart();
        // The mode that the lua program runs in.
        lua.gc_set_mode(GcMode::Generational(GcGenParams::default()));
        lua.set_memory_limit(setting.memory)?;
        Ok(Self {
            lua,
            main,
            frame,
            exits: setting.exits.clone(),
            guest: setting.guest.clone(),
        })
    }

    /// Runs the driver, which reads a program from this frame, or from standard input where that is
    /// empty, and runs it, and closes the state. However that ends short of a crash, `end_leftovers`
    /// is called then.
    ///
    /// Returns how it ended: the exit code, or the negative number of a signal. A program that ends by
    /// `os.exit` ends this process, and this function does not return, unless it is a guest here.
    pub(crate) fn run(self, program: Vec<u8>) -> i32 {
        self.frame.borrow_mut().bytes = program;
        self.end()
    }

    /// Runs the driver of sessions and then what serves requests until there are no more, and closes
    /// the state. Requests come on descriptor 3, or on this one. Returns how it ended.
    pub(crate) fn keep_session(mut self, serve: &'static str, requests: Option<&OwnedFd>) -> i32 {
        match self.session_function(serve, requests) {
            Ok(keep) => {
                self.main = keep;
                self.end()
            }
            Err(error) => self.code_of(&error),
        }
    }

    fn session_function(
        &self,
        serve: &'static str,
        requests: Option<&OwnedFd>,
    ) -> Result<Function> {
        let lua = &self.lua;
        let globals = lua.globals();
        let mut environment = globals.clone();
        if let Some(exits) = &self.exits {
            environment = tracing_environment(lua, &environment)?;
            let caller = exits.chunk_caller(lua, globals.get("xpcall")?)?;
            environment.raw_set("xpcall", caller)?;
        }
        if let Some(requests) = requests {
            let io: Table = globals.get("io")?;
            let open = guest::opener(lua, &io, requests)?;
            let io = behind(lua, &io, "open", open)?;
            environment.raw_set("io", io)?;
        }
        lua.create_function(move |lua, ()| -> Result<()> {
            let run = |part| -> Result<()> {
                let part = lua.load(part).set_name("=(command line)");
                part.set_environment(environment.clone()).exec()
            };
            run(SESSION_DRIVER)?;
            // It returns after each interrupt, and ends the program with the requests.
            loop {
                run(serve)?;
            }
        })
    }

    fn end(self) -> i32 {
        let result = match self.exits {
            Some(_) => leaving::call(&self.main),
            None => self.main.call(()).map(|()| None),
        };
        let ended = match &result {
            Ok(left) => left.unwrap_or(0),
            Err(error) => self.code_of(error),
        };
        // Finalizers may still print, and fail.
        drop(result);
        drop(self);
        ended
    }

    /// The exit code that an error of the driver stands for. It has told what goes wrong in the
    /// program; what goes wrong outside is told here.
    fn code_of(&self, error: &Error) -> i32 {
        let text = match error {
            Error::CallbackError { cause, .. } => return self.code_of(cause),
            Error::ExternalError(leave) if leave.is::<Leave>() => {
                return leave.downcast_ref::<Leave>().map_or(1, |leave| leave.0);
            }
            Error::MemoryError(_) => "not enough memory".to_owned(),
            error => error.to_string(),
        };
        tell(self.guest.as_deref(), &format!("lua: {text}\n"));
        1
    }
}

/// A state that is closed without a collection of its garbage before, as the lua program closes its
/// own: a collection takes time, and runs the finalizers of what is garbage before all others.
fn uncollected(options: LuaOptions) -> Result<Lua> {
    let first = Lua::new_with(StdLib::NONE, options)?;
    // It is the first handle of a state that collects when it is dropped. There is nothing yet.
    Ok(first.clone())
}

/// Writes to standard error.
fn tell(guest: Option<&Guest>, text: &str) {
    match guest {
        Some(guest) => guest.tell(text),
        // Nobody is left to be told that nobody listens.
        None => drop(io::stderr().write_all(text.as_bytes())),
    }
}

/// A table that shows another one, but for one value in front of it.
fn behind(lua: &Lua, table: &Table, name: &str, value: Value) -> Result<Table> {
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
fn tracing_environment(lua: &Lua, globals: &Table) -> Result<Table> {
    let tracer = Value::Function(debug::tracer(lua, 1)?);
    let debug = behind(lua, &globals.get("debug")?, "traceback", tracer)?;
    behind(lua, globals, "debug", Value::Table(debug))
}

/// The driver as a function, which leaves by an error of ours where it would end the process.
fn main_function(
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

fn change_library(lua: &Lua, setting: &Setting, stdin: Option<&OwnedFd>) -> Result<()> {
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
fn temporary_name(folder: &Path) -> io::Result<String> {
    let (_, path) = tempfile::Builder::new()
        .prefix("lua_")
        .tempfile_in(folder)?
        .keep()
        .map_err(|error| error.error)?;
    path.into_os_string()
        .into_string()
        .map_err(|_| io::Error::other("its name is not UTF-8"))
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
fn warn_on_request(lua: &Lua, guest: Option<Rc<Guest>>) {
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
