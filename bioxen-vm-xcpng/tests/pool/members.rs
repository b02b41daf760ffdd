//! A pool of several hosts, each of which has a certificate of its own.

use bioxen_vm_core::{Backend as _, BackendConfig as _};
use serde_json::json;
use xapi_sim::{GuestMode, Model, Server, SimOptions};

use crate::lab::Lab;

fn pin(server: &Server) -> String {
    server.fingerprint().unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_is_reached_by_each_host_whose_certificate_is_trusted() {
    let options = SimOptions::default().with_guests(GuestMode::Simulated);
    let lab = Lab::with(Model::pool_of_three(), options).await;
    let port = lab.server.address().port();
    let address = ([127, 0, 0, 2], port);
    let member = lab.sim.serve_host(1, address.into()).await.unwrap();
    let (one, other) = (lab.server.address(), member.address());
    let (pin_of_one, pin_of_other) = (pin(&lab.server), pin(&member));
    for (hosts, pins) in [
        // An untrusted host is told nothing, and the next is asked.
        (json!([other, one]), json!(pin_of_one)),
        // A trusted member says which certificate its coordinator has.
        (json!([other]), json!(pin_of_other)),
        (json!([other, one]), json!([pin_of_other, pin_of_one])),
    ] {
        let changes = json!({"xcpng_host": hosts, "tls": {"fingerprint": pins}});
        let pool = lab.config(changes.clone()).build().unwrap();
        let listed = pool.list().await;
        assert!(listed.is_ok(), "{changes}: {listed:?}");
        pool.close().await.unwrap();
    }
    let nobody = json!({"xcpng_host": [other, one], "tls": {"fingerprint": "00".repeat(32)}});
    let pool = lab.config(nobody).build().unwrap();
    let error = pool.list().await.unwrap_err().to_string();
    assert!(
        error.contains(&pin_of_other) && error.contains("each host of a pool"),
        "{error}"
    );
    lab.sim.shutdown().await;
}
