//! Consoles: `CONNECT /console`, its form for web browsers, and pictures of them. There is no screen to show, and so
//! even a VM that runs on the host that was asked has none.

use super::request::Request;
use super::{MISSING, Trouble, finish};
use crate::failure::Failure;
use crate::http::Connection;
use crate::value::Value;

/// What the server says of a request that makes no sense, whatever the reason.
const FAILURE: &str = "Console.Failure";

pub(super) async fn connect(request: &Request, connection: &mut Connection) -> Result<(), Trouble> {
    let task = request.task("Connection to VM console")?;
    let found = find(request, "http/connect_console/host_console");
    if found.is_ok() {
        connection.write_head(&MISSING).await?;
    }
    finish(task, found, &Value::void())
}

/// `GET /vncsnapshot`: the program that takes pictures of screens finds none.
pub(super) fn snapshot(request: &Request) -> Result<(), Trouble> {
    let task = request.task("Taking snapshot of VM console")?;
    let found = find(request, "http/get_vncsnapshot/host_console");
    let no_screen = "Forkhelpers.Subprocess_failed(1)".to_owned();
    let result = found.and(Err(Trouble::Exception(no_screen)));
    finish(task, result, &Value::void())
}

/// Looks for a console of a VM that runs here, and for the right to use it.
fn find(request: &Request, permission: &str) -> Result<(), Trouble> {
    let failure = || Trouble::Exception(FAILURE.to_owned());
    let given = match (request.query("uuid"), request.query("ref")) {
        (Some(uuid), _) => request.shared.with(|world| {
            let db = &world.db;
            let found = db
                .by_uuid("VM", uuid)
                .or_else(|| db.by_uuid("console", uuid));
            found.ok_or_else(|| Failure::uuid_invalid("console", uuid))
        })?,
        (None, Some(reference)) => reference.to_owned(),
        (None, None) => return Err(failure()),
    };
    let vm = request.shared.with(|world| {
        let db = &world.db;
        if db.exists("VM", &given) {
            let consoles = db.list("VM", &given, "consoles")?;
            let shows = |console: &String| {
                let protocol = db.text("console", console, "protocol");
                protocol.is_ok_and(|protocol| protocol == "rfb")
            };
            return Ok(consoles.iter().any(shows).then_some(given));
        }
        if db.exists("console", &given) {
            return db.text("console", &given, "VM").map(Some);
        }
        Ok(None)
    })?;
    let vm = vm.ok_or_else(failure)?;
    let (control_domain, runs_here) = request.shared.with(|world| {
        let db = &world.db;
        let runs = db.text("VM", &vm, "power_state")? == "Running";
        let here = db.text("VM", &vm, "resident_on")? == request.host;
        Ok::<_, Failure>((db.flag("VM", &vm, "is_control_domain")?, runs && here))
    })?;
    if control_domain {
        request.assert_role(permission, "pool-admin")?;
    }
    if runs_here { Ok(()) } else { Err(failure()) }
}
