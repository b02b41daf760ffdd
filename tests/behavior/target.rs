//! The kinds of VMs that the suite runs against.

use std::sync::Arc;

use bioxen::embedded::{Pool, TEMPLATE};
use bioxen::{Capabilities, Value, VmFactory, VmManager};
use serde_json::json;

/// A kind of VM.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub(crate) name: &'static str,
    /// What `_VERSION` is there.
    lua: &'static str,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// The built-in Lua, or an interpreter of this machine.
    Basic(Option<&'static str>),
    /// The built-in Lua in threads of this process.
    InProcess,
    Pool,
}

pub(crate) const TARGETS: [Target; 7] = [
    target("basic-worker", "Lua 5.4", Kind::Basic(None)),
    target("basic-in-process", "Lua 5.4", Kind::InProcess),
    target("basic-lua5.1", "Lua 5.1", Kind::Basic(Some("lua5.1"))),
    target("basic-lua5.3", "Lua 5.3", Kind::Basic(Some("lua5.3"))),
    target("basic-lua5.4", "Lua 5.4", Kind::Basic(Some("lua5.4"))),
    target("basic-luajit", "Lua 5.1", Kind::Basic(Some("luajit"))),
    target("xcpng", "Lua 5.4", Kind::Pool),
];

const fn target(name: &'static str, lua: &'static str, kind: Kind) -> Target {
    Target { name, lua, kind }
}

/// A manager with one VM, `vm`, of a kind.
pub(crate) struct Bench {
    pub(crate) manager: Arc<VmManager>,
    pub(crate) vm_type: &'static str,
    pub(crate) config: Value,
    pub(crate) lua: &'static str,
    pool: Option<Pool>,
}

impl Target {
    pub(crate) async fn bench(self) -> Bench {
        let (vm_type, config, pool) = match self.kind {
            Kind::Basic(interpreter) => {
                let mut config = json!({"processes": true});
                if let Some(interpreter) = interpreter {
                    config["lua_executable"] = interpreter.into();
                }
                ("basic", config, None)
            }
            Kind::InProcess => ("basic", json!({"in_process": true}), None),
            Kind::Pool => {
                let pool = Pool::open(Value::Null).await.unwrap();
                let config = pool.config(json!({"template": TEMPLATE}));
                ("xcpng", config, Some(pool))
            }
        };
        let factory: VmFactory = bioxen::factory();
        let manager = Arc::new(VmManager::new(factory));
        manager
            .create_vm("vm", vm_type, config.clone())
            .await
            .unwrap();
        Bench {
            manager,
            vm_type,
            config,
            lua: self.lua,
            pool,
        }
    }

    /// Whether programs run in Lua 5.4.
    pub(crate) fn is_newest(self) -> bool {
        self.lua == "Lua 5.4"
    }
}

impl Bench {
    pub(crate) fn can(&self) -> Capabilities {
        self.manager.vm("vm").unwrap().capabilities()
    }

    /// Removes everything.
    pub(crate) async fn end(self) {
        self.manager.shutdown_all().await.unwrap();
        assert!(self.manager.vms().is_empty());
        if let Some(pool) = self.pool {
            pool.close().await;
        }
    }
}
