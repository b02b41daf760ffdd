//! How a program is left from within, past every `pcall` of it: by a panic, which the `pcall` of a
//! state that is made so lets through, and which is caught where the program was called.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;

use mlua::debug::HookTriggers;
use mlua::{Function, Lua, MultiValue, Result, Table, Value, VmState};

use crate::brake::Brake;

/// After so many instructions a state looks whether it is to stop.
const INTERVAL: u32 = 10_000;

/// Why a program is left.
#[derive(Debug, Clone, Copy)]
enum Leaving {
    /// It has said so, by `os.exit`.
    Exit(Exit),
    /// It was stopped from outside.
    Stopped,
    /// Its chunk was interrupted.
    Interrupted,
}

/// What a program has said when it called `os.exit`.
#[derive(Debug, Clone, Copy)]
struct Exit {
    code: i32,
    /// Whether what it has opened is closed and finalized in Lua.
    close: bool,
}

/// The ways out of a state.
#[derive(Debug, Clone)]
pub(crate) struct Exits {
    brake: Arc<Brake>,
    /// Set once `os.exit` was called.
    exit: Rc<Cell<Option<Exit>>>,
}

impl Exits {
    pub(crate) fn new(brake: Arc<Brake>) -> Self {
        Self {
            brake,
            exit: Rc::default(),
        }
    }

    /// Leaves the program if it is to be left.
    fn pass(&self, lua: &Lua) -> Result<()> {
        let leaving = match self.exit.get() {
            _ if self.brake.is_stopped() => Leaving::Stopped,
            Some(exit) => Leaving::Exit(exit),
            None if self.brake.is_interrupted() => Leaving::Interrupted,
            None => return Ok(()),
        };
        if leaving.is_abrupt() {
            silence(lua, leaving)?;
        }
        // No panic hook is told: nothing is wrong.
        resume_unwind(Box::new(leaving))
    }

    /// Has a state look at the brake, and gives `pass` and `exit` to what changes its library.
    pub(super) fn install(&self, lua: &Lua, vm: &Table) -> Result<()> {
        let every = HookTriggers::new().every_nth_instruction(INTERVAL);
        let exits = self.clone();
        lua.set_global_hook(every, move |lua, _| {
            exits.pass(lua)?;
            Ok(VmState::Continue)
        })?;
        let exits = self.clone();
        let pass = move |lua: &Lua, ()| exits.pass(lua);
        vm.set("pass", lua.create_function(pass)?)?;
        let exits = self.clone();
        let exit = move |lua: &Lua, (code, close): (Value, bool)| {
            // What a process could tell of it.
            let code = match code {
                Value::Nil | Value::Boolean(true) => 0,
                code => code.as_i64().map_or(1, |code| code & 0xff),
            };
            let code = i32::try_from(code).unwrap_or(1);
            exits.exit.set(Some(Exit { code, close }));
            exits.pass(lua)
        };
        vm.set("exit", lua.create_function(exit)?)
    }

    /// `xpcall` for the driver of sessions: what it calls is a chunk, which can be interrupted.
    pub(super) fn chunk_caller(&self, lua: &Lua, xpcall: Function) -> Result<Function> {
        let brake = Arc::clone(&self.brake);
        lua.create_function(move |lua, args: MultiValue| {
            brake.begin_chunk();
            let result = catch_unwind(AssertUnwindSafe(|| xpcall.call::<MultiValue>(args)));
            brake.end_chunk();
            match result.map_err(|payload| payload.downcast::<Leaving>()) {
                Ok(results) => results,
                Err(Ok(leaving)) if matches!(*leaving, Leaving::Interrupted) => {
                    let text = lua.create_string("interrupted!")?;
                    Ok([Value::Boolean(false), Value::String(text)]
                        .into_iter()
                        .collect())
                }
                Err(Ok(leaving)) => resume_unwind(leaving),
                Err(Err(payload)) => resume_unwind(payload),
            }
        })
    }
}

impl Leaving {
    /// Whether nothing of the program is to run any more.
    fn is_abrupt(self) -> bool {
        match self {
            Self::Exit(exit) => !exit.close,
            Self::Stopped => true,
            Self::Interrupted => false,
        }
    }
}

/// Lets no Lua run in the thread of a state but finalizers: what else is called there ends with its
/// first instruction.
fn silence(lua: &Lua, leaving: Leaving) -> Result<()> {
    let every = HookTriggers::new().every_nth_instruction(1);
    lua.set_hook(every, move |_, _| resume_unwind(Box::new(leaving)))
}

/// Calls a program, and gives the exit code where it was left.
///
/// # Errors
/// Fails with the error of the program.
pub(super) fn call(main: &Function) -> Result<Option<i32>> {
    let payload = match catch_unwind(AssertUnwindSafe(|| main.call::<()>(()))) {
        Ok(result) => return result.map(|()| None),
        Err(payload) => payload,
    };
    let leaving = match payload.downcast::<Leaving>() {
        Ok(leaving) => *leaving,
        Err(payload) => resume_unwind(payload),
    };
    Ok(Some(match leaving {
        Leaving::Exit(exit) => exit.code,
        Leaving::Stopped | Leaving::Interrupted => STOPPED,
    }))
}

/// The ending of a program that was stopped, as of one that was killed.
const STOPPED: i32 = -9;
