//! The transfers of the client, against the simulator over TLS.

use secrecy::ExposeSecret as _;
use xapi_client::api::{Sr, Vdi, Vm};
use xapi_client::{Client, Compression, DiskFormat, Ref, SecretString, Trust};

use super::*;

/// Servers of these hosts of the pool, at one port, and a client of the first that trusts them all.
async fn over_tls(pool: &Pool, hosts: usize) -> (Vec<Server>, Client) {
    let mut servers: Vec<Server> = Vec::new();
    for number in 0..hosts {
        let port = servers.first().map_or(0, |first| first.address().port());
        let ip = [127, 0, 0, 1 + u8::try_from(number).unwrap()];
        let server = pool.sim.serve_host(number, (ip, port).into()).await;
        servers.push(server.unwrap());
    }
    let pins = servers.iter().filter_map(Server::fingerprint).collect();
    let credentials = pool.sim.credentials();
    let password = SecretString::from(credentials.password().expose_secret().to_owned());
    let client = Client::builder(servers[0].url())
        .credentials(credentials.user(), password)
        .trust(Trust::PinnedAny(pins))
        .login()
        .await
        .unwrap();
    (servers, client)
}

async fn tasks(pool: &Pool) -> usize {
    pool.call("task.get_all", vec![]).await.items().len()
}

#[tokio::test]
async fn a_disk_comes_back_as_it_went() {
    let served = served().await;
    let (_servers, client) = over_tls(&served.pool, 1).await;
    let content = bytes(6 * MIB);
    let vdi = Ref::<Vdi>::new(&served.vdi(content.len()).await);
    let upload = client.import_raw_vdi(&vdi, DiskFormat::Raw);
    let length = content.len() as u64;
    upload.send(&content[..], length).await.unwrap();

    let mut back = Vec::new();
    let download = client.export_raw_vdi(&vdi, DiskFormat::Raw);
    assert_eq!(download.to(&mut back).await.unwrap(), length);
    assert!(back == content);
    assert_eq!(tasks(&served.pool).await, 0);
}

#[tokio::test]
async fn more_than_a_disk_holds_fails_behind_the_good_answer() {
    let served = served().await;
    let (_servers, client) = over_tls(&served.pool, 1).await;
    let vdi = Ref::<Vdi>::new(&served.vdi(2 * MIB).await);
    let content = bytes(9 * MIB);
    let upload = client.import_raw_vdi(&vdi, DiskFormat::Raw);
    let error = upload.send(&content[..], content.len() as u64).await;
    let error = error.unwrap_err();
    assert!(error.failure().is_some(), "{error}");
    assert_eq!(tasks(&served.pool).await, 0);
}

#[tokio::test]
async fn a_disk_that_does_not_exist_is_named() {
    let served = served().await;
    let (_servers, client) = over_tls(&served.pool, 1).await;
    let vdi = Ref::<Vdi>::new("OpaqueRef:none");
    let download = client.export_raw_vdi(&vdi, DiskFormat::Raw);
    let error = download.to(&mut Vec::new()).await.unwrap_err();
    assert!(error.failure().unwrap().is_gone(), "{error}");
    assert_eq!(tasks(&served.pool).await, 0);
}

#[tokio::test]
async fn a_vm_is_exported_and_imported() {
    let served = served().await;
    let (_servers, client) = over_tls(&served.pool, 1).await;
    let vm = Ref::<Vm>::new(&served.pool.vm("wanderer").await);
    let mut archive = Vec::new();
    let export = client.export_vm(&vm, Compression::None);
    export.to(&mut archive).await.unwrap();

    let copies = client.import_vm(None).send(&archive[..], None).await;
    let copies = copies.unwrap();
    let [copy] = &copies[..] else {
        panic!("{copies:?}");
    };
    assert_ne!(*copy, vm);
    assert_eq!(client.vm().get_name_label(copy).await.unwrap(), "wanderer");

    let mut description = Vec::new();
    client
        .export_metadata(&vm)
        .to(&mut description)
        .await
        .unwrap();
    assert!(!description.is_empty());
    assert_eq!(tasks(&served.pool).await, 0);
}

#[tokio::test]
async fn the_host_that_sees_the_storage_gets_the_data() {
    let served = served_with(Model::pool_of_three(), SimOptions::default()).await;
    let pool = &served.pool;
    let (_servers, client) = over_tls(pool, 2).await;
    let sr = Ref::<Sr>::new(&pool.named("SR", "Shared storage").await);
    let vm = Ref::<Vm>::new(&pool.vm("wanderer").await);
    let mut archive = Vec::new();
    let export = client.export_vm(&vm, Compression::None);
    export.to(&mut archive).await.unwrap();

    // Storage that only members have.
    let pools = client.pool().get_all_records().await.unwrap();
    let coordinator = &pools.into_values().next().unwrap().master;
    for pbd in client.sr().get_pbds(&sr).await.unwrap() {
        if client.pbd().get_host(&pbd).await.unwrap() == *coordinator {
            client.pbd().unplug(&pbd).await.unwrap();
        }
    }
    let import = client.import_vm(Some(&sr));
    let length = archive.len() as u64;
    let copies = import.send(&archive[..], length).await.unwrap();
    assert_eq!(copies.len(), 1);
    assert_eq!(tasks(pool).await, 0);
}

#[tokio::test]
async fn statistics_are_a_table() {
    let served = served().await;
    let (_servers, client) = over_tls(&served.pool, 1).await;
    let host = client.host().get_all().await.unwrap().remove(0);
    let uuid = client.host().get_uuid(&host).await.unwrap();
    let table = client.rrd_updates(0).at(&host).await.unwrap();
    let of_host = table.columns.iter().find(|source| source.uuid == *uuid);
    let source = of_host.unwrap();
    assert!(table.of(&uuid, &source.name).count() > 0);
    assert!(table.rows.is_sorted_by_key(|row| row.time));

    let mut archive = Vec::new();
    client.host_rrd(&host).to(&mut archive).await.unwrap();
    assert!(String::from_utf8_lossy(&archive).contains("<rrd>"));
}
