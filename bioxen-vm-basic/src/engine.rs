//! The built-in Lua 5.4, made to behave as the `lua` program does. No other place names mlua.

mod debug;
mod driver;
mod guest;
mod leaving;
mod library;

use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;

use bioxen_vm_core::lua::{SESSION_DRIVER, VALUES};
use mlua::state::{GcGenParams, GcMode};
use mlua::{Error, Function, Lua, LuaOptions, Result, StdLib, Table};

use driver::{Frame, Leave, behind, lazy_driver, main_function, tracing_environment};
use library::{change_library, seed, warn_on_request};

pub(crate) use guest::Guest;
pub(crate) use leaving::Exits;

/// The version of the built-in Lua.
pub(crate) const VERSION: &str = "5.4";

/// Changes the standard library of a fresh state.
const STDLIB: &str = include_str!("stdlib.lua");

/// Changes it before that for a state that shares its process.
const GUEST: &str = include_str!("guest.lua");

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

/// A fresh Lua state in which everything is ready but the program.
pub(crate) struct Fresh {
    lua: Lua,
    main: Function,
    /// What the driver reads.
    frame: Rc<RefCell<Frame>>,
    exits: Option<Exits>,
    guest: Option<Rc<Guest>>,
}

/// Calls a function when the state is closed, after all finalizers of the program: they run in the
/// reverse order in which their objects were made, and this one is made first.
struct AtEnd(Rc<dyn Fn()>);

impl Drop for AtEnd {
    fn drop(&mut self) {
        (self.0)();
    }
}

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
