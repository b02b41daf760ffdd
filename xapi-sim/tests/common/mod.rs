//! Helpers of the integration tests.

#![allow(dead_code, reason = "each test file uses some of these")]

pub(crate) mod wire;

use secrecy::ExposeSecret as _;
use xapi_sim::{Failure, GuestMode, LUA_TEMPLATE, Model, NULL_REF, Sim, SimOptions, Value};

/// A pool whose guests are records only, with a session.
pub(crate) struct Pool {
    pub(crate) sim: Sim,
    pub(crate) session: String,
}

pub(crate) async fn pool() -> Pool {
    pool_of(Model::single_host(), SimOptions::default()).await
}

pub(crate) async fn pool_of(model: Model, options: SimOptions) -> Pool {
    let sim = Sim::start(model, options.with_guests(GuestMode::Simulated))
        .await
        .unwrap();
    let session = login(&sim).await;
    Pool { sim, session }
}

pub(crate) async fn login(sim: &Sim) -> String {
    let credentials = sim.credentials();
    let params = vec![
        Value::from(credentials.user()),
        Value::from(credentials.password().expose_secret()),
        Value::from("1.0"),
        Value::from("tests"),
    ];
    text(
        &sim.call("session.login_with_password", params)
            .await
            .unwrap(),
    )
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

impl Pool {
    /// Calls with the session in front.
    pub(crate) async fn try_call(&self, method: &str, args: Vec<Value>) -> Result<Value, Failure> {
        let params = std::iter::once(Value::from(self.session.as_str()))
            .chain(args)
            .collect();
        self.sim.call(method, params).await
    }

    pub(crate) async fn call(&self, method: &str, args: Vec<Value>) -> Value {
        self.try_call(method, args)
            .await
            .unwrap_or_else(|failure| panic!("{method}: {failure}"))
    }

    /// Calls and gives the failure as one text: code and parameters with bars between.
    pub(crate) async fn fails(&self, method: &str, args: Vec<Value>) -> String {
        let failure = self.try_call(method, args).await.expect_err(method);
        std::iter::once(failure.code)
            .chain(failure.params)
            .collect::<Vec<_>>()
            .join("|")
    }

    pub(crate) async fn named(&self, class: &str, name: &str) -> String {
        let found = self
            .call(&format!("{class}.get_by_name_label"), vec![name.into()])
            .await;
        text(&found.items()[0])
    }

    pub(crate) async fn get(&self, class: &str, field: &str, reference: &str) -> Value {
        self.call(&format!("{class}.get_{field}"), vec![reference.into()])
            .await
    }

    pub(crate) async fn template(&self) -> String {
        self.named("VM", LUA_TEMPLATE).await
    }

    /// A VM cloned from the Lua template and provisioned.
    pub(crate) async fn vm(&self, name: &str) -> String {
        let template = self.template().await;
        let vm = text(
            &self
                .call("VM.clone", vec![template.into(), name.into()])
                .await,
        );
        self.call("VM.provision", vec![vm.as_str().into()]).await;
        vm
    }

    pub(crate) async fn start(&self, vm: &str) {
        self.call("VM.start", vec![vm.into(), false.into(), false.into()])
            .await;
    }

    /// Waits for the guest of a VM to report, and gives its metrics.
    pub(crate) async fn reported(&self, vm: &str) -> String {
        let mut token = String::new();
        loop {
            let metrics = text(&self.get("VM", "guest_metrics", vm).await);
            if metrics != NULL_REF {
                return metrics;
            }
            let classes = Value::strings([format!("VM/{vm}")]);
            let params = vec![classes, token.as_str().into(), 30.0.into()];
            let batch = self.call("event.from", params).await;
            token = text(batch.get("token").unwrap());
        }
    }

    pub(crate) async fn state(&self, vm: &str) -> String {
        text(&self.get("VM", "power_state", vm).await)
    }
}

/// Waits for the end of a task and gives its record.
pub(crate) async fn ended(pool: &Pool, task: &str) -> Value {
    let mut token = String::new();
    loop {
        let args = vec![
            Value::strings([format!("task/{task}")]),
            token.into(),
            10.0.into(),
        ];
        let batch = pool.call("event.from", args).await;
        token = text(batch.get("token").unwrap());
        let record = pool.call("task.get_record", vec![task.into()]).await;
        if record.get("status") != Some(&Value::from("pending")) {
            return record;
        }
    }
}

/// The device that a VM has under a number.
pub(crate) async fn device(pool: &Pool, class: &str, vm: &str, number: &str) -> String {
    let field = if class == "VBD" {
        "userdevice"
    } else {
        "device"
    };
    for found in pool.get("VM", &format!("{class}s"), vm).await.items() {
        let found = text(found);
        if pool.get(class, field, &found).await == Value::from(number) {
            return found;
        }
    }
    panic!("{vm} has no {class} {number}")
}
