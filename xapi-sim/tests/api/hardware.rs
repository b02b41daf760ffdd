//! What hosts without special hardware and software refuse, and what is only written down.

use super::{map, this};
use crate::common::{Pool, device, pool, pool_of, text};
use xapi_sim::{Model, Release, SimOptions, Value};

async fn newest() -> Pool {
    pool_of(
        Model::single_host().release(Release::Newest),
        SimOptions::default(),
    )
    .await
}

#[tokio::test]
async fn devices_that_are_not_there_cannot_be_given_to_vms() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    let named = |name: &str| vec![name.into(), "".into(), map(&[])];
    let gpus = text(&pool.call("GPU_group.create", named("cards")).await);
    let usbs = text(&pool.call("USB_group.create", named("sticks")).await);
    let args = vec![
        vm.as_str().into(),
        gpus.as_str().into(),
        "0".into(),
        map(&[]),
    ];
    assert_eq!(
        pool.fails("VGPU.create", args).await,
        format!("GPU_GROUP_CONTAINS_NO_PGPUS|{gpus}")
    );
    let args = vec![vm.as_str().into(), usbs.as_str().into(), map(&[])];
    assert_eq!(
        pool.fails("VUSB.create", args).await,
        format!("USB_GROUP_CONTAINS_NO_PUSBS|{usbs}")
    );
    pool.call("GPU_group.destroy", this(&gpus)).await;
    pool.call("USB_group.destroy", this(&usbs)).await;
    let card = pool.call("PIF.get_all", vec![]).await.items()[0].clone();
    let network = pool.call("network.get_all", vec![]).await.items()[0].clone();
    assert_eq!(
        pool.fails("network_sriov.create", vec![card.clone(), network.clone()])
            .await,
        format!("PIF_IS_NOT_SRIOV_CAPABLE|{}", text(&card))
    );
}

#[tokio::test]
async fn clusters_need_what_no_host_has() {
    let pool = pool().await;
    let card = pool.call("PIF.get_all", vec![]).await.items()[0].clone();
    let create = |stack: &str| vec![card.clone(), stack.into(), false.into()];
    assert_eq!(
        pool.fails("Cluster.create", create("xhad")).await,
        "INVALID_CLUSTER_STACK|xhad"
    );
    assert_eq!(
        pool.fails("Cluster.create", create("corosync")).await,
        format!("PIF_ALLOWS_UNPLUG|{}", text(&card))
    );
    let mut args = create("corosync");
    args.push(0.5.into());
    assert_eq!(
        pool.fails("Cluster.create", args).await,
        "INVALID_VALUE|token_timeout|0.5"
    );
}

#[tokio::test]
async fn provisioning_services_and_controllers_are_written_down() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    let args = vec!["site".into(), "".into(), "one".into()];
    let site = text(&pool.call("PVS_site.introduce", args.clone()).await);
    assert_eq!(text(&pool.call("PVS_site.introduce", args).await), site);
    let server = |first: i64, last: i64| {
        let addresses = Value::strings(["192.0.2.7"]);
        vec![addresses, first.into(), last.into(), site.as_str().into()]
    };
    assert_eq!(
        pool.fails("PVS_server.introduce", server(7, 6)).await,
        "VALUE_NOT_SUPPORTED|last_port|6|Port out of range"
    );
    let known = text(&pool.call("PVS_server.introduce", server(6, 7)).await);
    assert_eq!(
        pool.fails("PVS_server.introduce", server(8, 9)).await,
        "PVS_SERVER_ADDRESS_IN_USE|192.0.2.7"
    );
    assert_eq!(
        pool.fails("PVS_site.forget", this(&site)).await,
        format!("PVS_SITE_CONTAINS_SERVERS|{known}")
    );
    let card = device(&pool, "VIF", &vm, "0").await;
    let args = vec![site.as_str().into(), card.as_str().into()];
    let proxy = text(&pool.call("PVS_proxy.create", args.clone()).await);
    assert_eq!(
        pool.fails("PVS_proxy.create", args).await,
        format!("PVS_PROXY_ALREADY_PRESENT|{proxy}")
    );
    pool.call("PVS_proxy.destroy", this(&proxy)).await;
    pool.call("PVS_server.forget", this(&known)).await;
    pool.call("PVS_site.forget", this(&site)).await;
    let args = vec!["ssl".into(), "192.0.2.8".into(), 0.into()];
    let controller = text(&pool.call("SDN_controller.introduce", args).await);
    let port = pool.get("SDN_controller", "port", &controller).await;
    assert_eq!(port, Value::Int(6632));
    pool.call("SDN_controller.forget", this(&controller)).await;
}

#[tokio::test]
async fn repositories_are_configured_and_reached_by_nobody() {
    let pool = newest().await;
    let whole = text(&pool.call("pool.get_all", vec![]).await.items()[0]);
    let introduce = |url: &str| {
        vec![
            "base".into(),
            "".into(),
            url.into(),
            "https://example.org/source".into(),
            true.into(),
            "key.asc".into(),
        ]
    };
    assert_eq!(
        pool.fails("Repository.introduce", introduce("ftp://x"))
            .await,
        "INVALID_BASE_URL|ftp://x"
    );
    let url = "https://example.org/binary";
    let repository = text(&pool.call("Repository.introduce", introduce(url)).await);
    assert_eq!(
        pool.fails("Repository.introduce", introduce(url)).await,
        format!("REPOSITORY_ALREADY_EXISTS|{repository}")
    );
    let sync = vec![whole.as_str().into(), false.into()];
    assert_eq!(
        pool.fails("pool.sync_updates", sync.clone()).await,
        "NO_REPOSITORY_ENABLED"
    );
    let args = vec![whole.as_str().into(), repository.as_str().into()];
    pool.call("pool.add_repository", args.clone()).await;
    assert_eq!(
        pool.fails("Repository.forget", this(&repository)).await,
        "REPOSITORY_IS_IN_USE"
    );
    assert_eq!(
        pool.fails("pool.sync_updates", sync).await,
        "REPOSYNC_FAILED"
    );
    pool.call("pool.remove_repository", args).await;
    pool.call("Repository.forget", this(&repository)).await;
    let proxy = |user: &str, password: &str| {
        vec![
            whole.as_str().into(),
            "http://proxy.lab:3128".into(),
            user.into(),
            password.into(),
        ]
    };
    assert_eq!(
        pool.fails("pool.configure_repository_proxy", proxy("me", ""))
            .await,
        "INVALID_REPOSITORY_PROXY_CREDENTIAL"
    );
    let secrets = pool.call("secret.get_all", vec![]).await.items().len();
    pool.call("pool.configure_repository_proxy", proxy("me", "x"))
        .await;
    pool.call("pool.disable_repository_proxy", this(&whole))
        .await;
    assert_eq!(
        pool.call("secret.get_all", vec![]).await.items().len(),
        secrets
    );
}
