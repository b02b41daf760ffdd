//! Pools and their members: joining, leaving, directories, certificates, and what hosts tell.

use super::{map, this};
use crate::common::{Pool, device, pool, pool_of, text};
use xapi_sim::{Model, NULL_REF, Release, SimOptions, Value};

async fn host(pool: &Pool) -> String {
    text(&pool.call("host.get_all", vec![]).await.items()[0])
}

#[tokio::test]
async fn a_member_that_is_ejected_leaves_with_what_is_its_own() {
    let pool = pool_of(Model::pool_of_three(), SimOptions::default()).await;
    let whole = text(&pool.call("pool.get_all", vec![]).await.items()[0]);
    let first = text(&pool.get("pool", "master", &whole).await);
    assert_eq!(
        pool.fails("pool.eject", this(&first)).await,
        format!("HOST_CANNOT_DESTROY_SELF|{first}")
    );
    let all = pool.call("host.get_all", vec![]).await;
    let member = all
        .items()
        .iter()
        .map(text)
        .find(|host| *host != first)
        .unwrap();
    assert_eq!(
        pool.fails("host.destroy", this(&member)).await,
        format!("HOST_IS_LIVE|{member}")
    );
    let count = |class: &str| {
        let class = class.to_owned();
        let pool = &pool;
        async move {
            pool.call(&format!("{class}.get_all"), vec![])
                .await
                .items()
                .len()
        }
    };
    let vm = pool.vm("worker").await;
    let args = vec![
        vm.as_str().into(),
        member.as_str().into(),
        false.into(),
        false.into(),
    ];
    pool.call("VM.start_on", args).await;
    assert_eq!(
        pool.fails("pool.eject", this(&member)).await,
        "OPERATION_NOT_ALLOWED|Host is not empty: migrate or shut down its VMs first"
    );
    pool.call("VM.hard_shutdown", this(&vm)).await;
    let (srs, pifs, vms) = (count("SR").await, count("PIF").await, count("VM").await);
    pool.call("pool.eject", this(&member)).await;
    assert_eq!(count("host").await, 2);
    // Its control domain, its cards, its local storage and its drives.
    assert_eq!(count("VM").await, vms - 1);
    assert_eq!(count("PIF").await, pifs - 1);
    assert_eq!(count("SR").await, srs - 3);
    assert_eq!(
        pool.fails("host.get_record", this(&member)).await,
        format!("HANDLE_INVALID|host|{member}")
    );
    pool.start(&vm).await;
}

#[tokio::test]
async fn a_pool_joins_no_other_as_it_is() {
    let pool = pool().await;
    let join = |address: &str| vec![address.into(), "root".into(), "x".into()];
    assert_eq!(
        pool.fails("pool.join", join("127.0.0.1")).await,
        "HOST_ITS_OWN_SLAVE"
    );
    assert_eq!(
        pool.fails("pool.join", join("192.0.2.9")).await,
        "JOINING_HOST_CANNOT_CONTAIN_SHARED_SRS"
    );
    let vm = pool.vm("worker").await;
    pool.start(&vm).await;
    assert_eq!(
        pool.fails("pool.join_force", join("192.0.2.9")).await,
        "JOINING_HOST_CANNOT_HAVE_RUNNING_OR_SUSPENDED_VMS"
    );
    pool.call("VM.hard_shutdown", this(&vm)).await;
    assert_eq!(
        pool.fails("pool.join_force", join("192.0.2.9")).await,
        "JOINING_HOST_CONNECTION_FAILED"
    );
}

#[tokio::test]
async fn no_directory_answers() {
    let pool = pool().await;
    let host = host(&pool).await;
    let whole = text(&pool.call("pool.get_all", vec![]).await.items()[0]);
    let join =
        |who: &str, kind: &str| vec![who.into(), map(&[]), "example.org".into(), kind.into()];
    assert_eq!(
        pool.fails("host.enable_external_auth", join(&host, "LDAP"))
            .await,
        "AUTH_UNKNOWN_TYPE|LDAP"
    );
    assert_eq!(
        pool.fails("pool.enable_external_auth", join(&whole, "AD"))
            .await,
        format!(
            "POOL_AUTH_ENABLE_FAILED_DOMAIN_LOOKUP_FAILED|{host}|Failed to look up domain example.org"
        )
    );
    pool.call(
        "pool.disable_external_auth",
        vec![whole.as_str().into(), map(&[])],
    )
    .await;
    assert_eq!(
        pool.fails("pool.deconfigure_wlb", vec![]).await,
        "WLB_NOT_INITIALIZED"
    );
}

#[tokio::test]
async fn a_host_tells_the_certificate_that_it_shows() {
    let pool = pool().await;
    let host = host(&pool).await;
    let server = pool
        .sim
        .serve("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let pem = text(&pool.call("host.get_server_certificate", this(&host)).await);
    assert_eq!(Some(pem.as_str()), server.certificate_pem());
    let all = pool.get("host", "certificates", &host).await;
    let certificate = text(&all.items()[0]);
    let shown = server.fingerprint().unwrap().to_string();
    assert_eq!(
        text(&pool.get("Certificate", "fingerprint", &certificate).await),
        shown
    );
    let other = text(
        &pool
            .get("Certificate", "fingerprint_sha1", &certificate)
            .await,
    );
    assert_eq!(other.split(':').count(), 20, "{other}");
    let until = pool.get("Certificate", "not_after", &certificate).await;
    assert!(matches!(until, Value::DateTime(text) if text.ends_with('Z')));
    // The pool can trust it as an authority.
    let args = |name: &str| vec![name.into(), pem.as_str().into()];
    pool.call("pool.install_ca_certificate", args("lab.pem"))
        .await;
    assert_eq!(
        pool.fails("pool.install_ca_certificate", args("lab.pem"))
            .await,
        "CERTIFICATE_ALREADY_EXISTS|lab.pem"
    );
    assert_eq!(
        pool.fails("pool.install_ca_certificate", args("../lab"))
            .await,
        "CERTIFICATE_NAME_INVALID|../lab"
    );
    assert_eq!(
        pool.fails("pool.install_ca_certificate", vec!["x".into(), "y".into()])
            .await,
        "CERTIFICATE_CORRUPT|x"
    );
    pool.call("pool.uninstall_ca_certificate", vec!["lab.pem".into()])
        .await;
    assert_eq!(
        pool.fails("pool.certificate_uninstall", vec!["lab.pem".into()])
            .await,
        "CERTIFICATE_DOES_NOT_EXIST|lab.pem"
    );
}

#[tokio::test]
async fn the_newest_pools_trust_certificates_for_what_they_are_meant_for() {
    let model = Model::single_host().release(Release::Newest);
    let pool = pool_of(model, SimOptions::default()).await;
    let whole = text(&pool.call("pool.get_all", vec![]).await.items()[0]);
    let host = host(&pool).await;
    let pem = text(&pool.call("host.get_server_certificate", this(&host)).await);
    let install = |ca: bool, pem: &str, purposes: &[&str]| {
        let purposes = Value::strings(purposes.iter().copied());
        vec![whole.as_str().into(), ca.into(), pem.into(), purposes]
    };
    let method = "pool.install_trusted_certificate";
    assert_eq!(
        pool.fails(method, install(false, &pem, &[])).await,
        "CERTIFICATE_LACKS_PURPOSE"
    );
    assert_eq!(
        pool.fails(method, install(true, "x", &[])).await,
        "TRUSTED_CERTIFICATE_INVALID"
    );
    pool.call(method, install(false, &pem, &["ldaps"])).await;
    let twice = pool
        .fails(method, install(false, &pem, &["licensing", "ldaps"]))
        .await;
    assert!(
        twice.starts_with("TRUSTED_CERTIFICATE_ALREADY_EXISTS|"),
        "{twice}"
    );
    // As an authority it is another one.
    pool.call(method, install(true, &pem, &[])).await;
    let all = pool.call("Certificate.get_all_records", vec![]).await;
    let of = |kind: &str| {
        let mut all = all.members().iter();
        let found = all.find(|(_, record)| record.get("type") == Some(&kind.into()));
        found.unwrap().clone()
    };
    let (pinned, record) = of("pinned");
    assert_eq!(record.get("purpose"), Some(&Value::strings(["ldaps"])));
    let (of_host, _) = of("host");
    let uninstall = |which: &str| vec![whole.as_str().into(), which.into()];
    assert_eq!(
        pool.fails("pool.uninstall_trusted_certificate", uninstall(&of_host))
            .await,
        format!("NOT_TRUSTED_CERTIFICATE|{of_host}")
    );
    // What another pool needs of it, and has for it.
    let none = || Value::Struct(vec![]);
    let args = vec![
        whole.as_str().into(),
        false.into(),
        none(),
        Value::strings([&pinned]),
    ];
    let given = pool
        .call("pool.exchange_trusted_certificates_on_join", args)
        .await;
    assert_eq!(given.members(), [(pem, Value::strings(["ldaps"]))]);
    pool.call("pool.uninstall_trusted_certificate", uninstall(&pinned))
        .await;
    let list = "-----BEGIN X509 CRL-----";
    let import = Value::map([("lab.pem", list)]);
    let args = vec![whole.as_str().into(), import, Value::Array(vec![])];
    pool.call("pool.exchange_crls_on_join", args).await;
    let export = vec![whole.as_str().into(), none(), Value::strings(["lab.pem"])];
    let given = pool.call("pool.exchange_crls_on_join", export).await;
    assert_eq!(given, Value::map([("lab.pem", list)]));
    let remote = vec!["192.0.2.9".into(), "".into(), "".into(), true.into()];
    let args = [vec![whole.as_str().into()], remote].concat();
    assert_eq!(
        pool.fails("pool.sync_trusted_certificates_from", args)
            .await,
        "CANNOT_CONTACT_HOST|192.0.2.9"
    );
}

#[tokio::test]
async fn clocks_of_hosts_can_differ() {
    let model = Model::pool_of_three().clock_skew(1, 3600);
    let pool = pool_of(model, SimOptions::default()).await;
    let seconds = |name: &'static str| {
        let pool = &pool;
        async move {
            let host = pool.named("host", name).await;
            let time = pool.call("host.get_servertime", this(&host)).await;
            let text = text(&time);
            let number = |at: std::ops::Range<usize>| text[at].parse::<i64>().unwrap();
            number(6..8) * 86_400 + number(9..11) * 3600 + number(12..14) * 60 + number(15..17)
        }
    };
    let ahead = seconds("xcp-ng-2").await - seconds("xcp-ng").await;
    // At the end of a month the day starts anew.
    assert!((3600..3605).contains(&ahead) || ahead < 0, "{ahead}");
    pool.sim.skew_clock("xcp-ng-2", 0).unwrap();
    let ahead = seconds("xcp-ng-2").await - seconds("xcp-ng").await;
    assert!((-1..=1).contains(&ahead), "{ahead}");
}

#[tokio::test]
async fn what_is_measured_can_be_listed_and_asked_for() {
    let pool = pool().await;
    let host = host(&pool).await;
    let vm = pool.vm("worker").await;
    let none = pool.call("VM.get_data_sources", this(&vm)).await;
    assert_eq!(none, Value::Array(vec![]));
    let ask = |name: &str| vec![vm.as_str().into(), name.into()];
    assert_eq!(
        pool.fails("VM.query_data_source", ask("memory")).await,
        format!("VM_BAD_POWER_STATE|{vm}|running;paused|halted")
    );
    pool.start(&vm).await;
    let memory = pool
        .get("VM", "memory_dynamic_max", &vm)
        .await
        .as_int()
        .unwrap();
    let told = pool.call("VM.query_data_source", ask("memory")).await;
    assert_eq!(told, Value::Float(memory as f64));
    assert!(
        pool.fails("VM.query_data_source", ask("nothing"))
            .await
            .starts_with("INTERNAL_ERROR")
    );
    let enabled = || async {
        let all = pool.call("VM.get_data_sources", this(&vm)).await;
        let named = |record: &&Value| record.get("name_label") == Some(&Value::from("cpu0"));
        let found = all.items().iter().find(named).cloned().unwrap();
        found.get("enabled").cloned().unwrap()
    };
    assert_eq!(enabled().await, Value::Bool(true));
    pool.call("VM.forget_data_source_archives", ask("cpu0"))
        .await;
    assert_eq!(enabled().await, Value::Bool(false));
    pool.call("VM.record_data_source", ask("cpu0")).await;
    assert_eq!(enabled().await, Value::Bool(true));
    let args = vec![host.as_str().into(), "memory_total_kib".into()];
    let total = pool.call("host.query_data_source", args).await;
    assert_eq!(total, Value::Float(67_108_864.0));
}

#[tokio::test]
async fn cards_have_properties_and_one_manages_the_host() {
    let pool = pool().await;
    let host = host(&pool).await;
    let card = text(
        &pool
            .call("host.get_management_interface", this(&host))
            .await,
    );
    let set = |value: &str| vec![card.as_str().into(), "gro".into(), value.into()];
    pool.call("PIF.set_property", set("off")).await;
    let properties = pool.get("PIF", "properties", &card).await;
    assert_eq!(properties, map(&[("gro", "off")]));
    assert_eq!(
        pool.fails("PIF.set_property", set("maybe")).await,
        "INVALID_VALUE|properties|gro = maybe"
    );
    pool.call("host.management_reconfigure", this(&card)).await;
    let network = text(&pool.get("PIF", "network", &card).await);
    pool.call("pool.management_reconfigure", this(&network))
        .await;
    let vlan = vec![card.as_str().into(), 7.into(), network.as_str().into()];
    assert!(
        pool.try_call("VLAN.create", vlan).await.is_err(),
        "the network is taken"
    );
    let internal = pool
        .named("network", "Host internal management network")
        .await;
    assert_eq!(
        pool.fails("pool.management_reconfigure", this(&internal))
            .await,
        format!("PIF_NOT_PRESENT|{host}|{internal}")
    );
}

#[tokio::test]
async fn ssh_of_hosts_is_switched_for_a_while() {
    let model = Model::single_host().release(Release::Newest);
    let pool = pool_of(model, SimOptions::default()).await;
    let host = host(&pool).await;
    let args = vec![host.as_str().into(), 600.into()];
    pool.call("host.set_ssh_enabled_timeout", args).await;
    pool.call("host.enable_ssh", this(&host)).await;
    assert_eq!(
        pool.get("host", "ssh_enabled", &host).await,
        Value::Bool(true)
    );
    let expiry = text(&pool.get("host", "ssh_expiry", &host).await);
    assert!(expiry > text(&pool.call("host.get_servertime", this(&host)).await));
    pool.call("host.disable_ssh", this(&host)).await;
    let expiry = pool.get("host", "ssh_expiry", &host).await;
    assert_eq!(expiry, Value::DateTime("19700101T00:00:00Z".to_owned()));
    assert_eq!(
        pool.fails(
            "host.set_ssh_enabled_timeout",
            vec![host.into(), (-1).into()]
        )
        .await,
        "INVALID_VALUE|ssh_enabled_timeout|-1"
    );
}

#[tokio::test]
async fn local_storage_can_be_a_cache() {
    let pool = pool().await;
    let host = host(&pool).await;
    let local = pool.named("SR", "Local storage").await;
    let shared = pool.named("SR", "Shared storage").await;
    let on = |sr: &str| vec![host.as_str().into(), sr.into()];
    assert_eq!(
        pool.fails("host.enable_local_storage_caching", on(&shared))
            .await,
        format!("SR_OPERATION_NOT_SUPPORTED|{shared}")
    );
    pool.call("host.enable_local_storage_caching", on(&local))
        .await;
    assert_eq!(
        pool.get("host", "local_cache_sr", &host).await,
        local.as_str().into()
    );
    assert_eq!(
        pool.get("SR", "local_cache_enabled", &local).await,
        Value::Bool(true)
    );
    pool.call("host.disable_local_storage_caching", this(&host))
        .await;
    assert_eq!(
        pool.get("host", "local_cache_sr", &host).await,
        NULL_REF.into()
    );
}

#[tokio::test]
async fn what_a_vm_needs_for_its_recovery() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    let disk = device(&pool, "VBD", &vm, "0").await;
    let vdi = text(&pool.get("VBD", "VDI", &disk).await);
    let sr = text(&pool.get("VDI", "SR", &vdi).await);
    let ask = |session: &str| vec![vm.as_str().into(), session.into()];
    let needed = pool
        .call("VM.get_SRs_required_for_recovery", ask(&pool.session))
        .await;
    assert_eq!(needed, Value::strings([sr]));
    pool.call("VM.assert_can_be_recovered", ask(&pool.session))
        .await;
    assert_eq!(
        pool.fails("VM.assert_can_be_recovered", ask("OpaqueRef:none"))
            .await,
        "SESSION_INVALID|OpaqueRef:none"
    );
}
