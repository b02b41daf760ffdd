use super::*;

const GIB: i64 = 1 << 30;

fn template(vcpus_max: i64, vcpus_at_startup: i64, cores: Option<&str>) -> Template {
    let mut record = VmRecord::default();
    record.uuid = "t-uuid".into();
    record.name_label = "lua".into();
    record.memory_static_min = GIB;
    record.vcpus_max = vcpus_max;
    record.vcpus_at_startup = vcpus_at_startup;
    record.platform.insert("acpi".into(), "1".into());
    if let Some(cores) = cores {
        record
            .platform
            .insert(CORES_PER_SOCKET.into(), cores.into());
    }
    record.tags = vec!["bio".into()];
    record.is_a_template = true;
    record.power_state = VmPowerState::Halted;
    record.memory_dynamic_min = 4 * GIB;
    record.memory_dynamic_max = 4 * GIB;
    record.memory_static_max = 4 * GIB;
    Template::new(Ref::new("OpaqueRef:t"), record)
}

fn wish() -> Wish {
    Wish {
        template: "lua".into(),
        memory: None,
        vcpus: None,
        cores_per_socket: None,
        disk_size: None,
        disks: Vec::new(),
        affinity: None,
        sr: None,
        networks: Vec::new(),
        fixed_address: None,
        address_cidr: Vec::new(),
        peers: None,
        name: None,
        name_prefix: "bioxen-".into(),
        tags: Vec::new(),
        clone: CloneMode::Fast,
    }
}

fn run() -> Run {
    Run {
        id: "run1".into(),
        expires: 7,
    }
}

fn plan(wish: &Wish, template: Template) -> Result<Plan> {
    let found = Found {
        template,
        sr: None,
        networks: Vec::new(),
        affinity: None,
        disk: Some(FirstDisk {
            device: "0".into(),
            size: 8 << 30,
        }),
        places: Vec::new(),
        told: Told::VmData,
    };
    Plan::new(&VmId::new("vm1").unwrap(), &run(), "u1", wish, found)
}

fn lines(wish: &Wish, template: Template) -> Vec<String> {
    let plan = plan(wish, template).unwrap();
    plan.to_string().lines().skip(2).map(String::from).collect()
}

#[test]
fn a_plan_reads_as_what_will_be_done() {
    let mut wish = wish();
    wish.memory = Some(ByteSize(2 << 30));
    wish.vcpus = Some(2);
    wish.tags = vec!["bio".into(), "lab".into()];
    let peers = [("vm1", [10, 77, 0, 1]), ("vm2", [10, 77, 0, 2])]
        .map(|(vm, address)| (VmId::new(vm).unwrap(), address.into()));
    let subnet = "10.77.0.0/24".parse().unwrap();
    wish.peers = Some(Box::new(Peers::new(1, subnet, peers.into())));
    wish.clone = CloneMode::Copy;
    wish.disk_size = Some(ByteSize(20 << 30));
    let named = |name: &str| Named {
        reference: Ref::new(name),
        uuid: format!("{name}-uuid"),
        name: name.into(),
    };
    let found = Found {
        template: template(1, 1, Some("1")),
        sr: Some(Named {
            reference: Ref::new("sr"),
            uuid: "sr-uuid".into(),
            name: "fast".into(),
        }),
        networks: vec![named("lab"), named("backup")],
        affinity: Some(Named {
            reference: Ref::new("h"),
            uuid: "h-uuid".into(),
            name: "big".into(),
        }),
        disk: Some(FirstDisk {
            device: "0".into(),
            size: 8 << 30,
        }),
        places: Vec::new(),
        told: Told::Drive(Drive {
            sr: Ref::new("sr"),
            old: vec!["3".into()],
            addresses: BTreeMap::new(),
            hosts: None,
        }),
    };
    let plan = Plan::new(&VmId::new("vm1").unwrap(), &run(), "u1", &wish, found).unwrap();
    assert_eq!(
        plan.to_string(),
        "copy template \"lua\" (t-uuid) in full, to storage \"fast\" (sr-uuid)\n\
         mark it as ours: bioxen:expires=7 bioxen:owner=bioxen bioxen:run=run1 bioxen:vm-id=vm1\n\
         make it a VM\n\
         set memory to 2 GiB\n\
         set the most vcpus to 2\n\
         set the vcpus at startup to 2\n\
         grow the disk 0 to 20 GiB\n\
         let it run on \"big\" (h-uuid) if it can\n\
         replace its network interfaces: 0 on \"lab\" (lab-uuid) 1 on \"backup\" (backup-uuid)\n\
         remove the config drive that the template brings along as 3\n\
         give it a config drive with its SSH keys and the address 10.77.0.1/24 for interface 1 \
         and the names of 2 VMs\n\
         tag it: bio lab\n\
         name it \"bioxen-vm1\""
    );
    assert_eq!(plan.working_name, "bioxen-unfinished-run1-7-u1-vm1");
}

#[test]
fn what_is_not_wished_stays_as_the_template_has_it() {
    assert_eq!(
        lines(&wish(), template(4, 2, Some("2"))),
        [
            "make it a VM",
            "hand it its SSH keys",
            "name it \"bioxen-vm1\""
        ]
    );
}

#[test]
fn processors_are_raised_from_above_and_lowered_from_below() {
    let mut wish = wish();
    wish.vcpus = Some(8);
    assert_eq!(
        lines(&wish, template(4, 2, None))[1..3],
        ["set the most vcpus to 8", "set the vcpus at startup to 8"]
    );
    wish.vcpus = Some(1);
    assert_eq!(
        lines(&wish, template(4, 2, None))[1..3],
        ["set the vcpus at startup to 1", "set the most vcpus to 1"]
    );
    wish.vcpus = Some(4);
    assert_eq!(lines(&wish, template(4, 4, None)).len(), 3);
    assert_eq!(
        lines(&wish, template(4, 2, None))[1],
        "set the vcpus at startup to 4"
    );
}

#[test]
fn sockets_are_always_full() {
    let cores = |vcpus: Option<u32>, cores: Option<u32>, of_template: Option<&str>| {
        let mut wish = wish();
        (wish.vcpus, wish.cores_per_socket) = (vcpus, cores);
        plan(&wish, template(4, 4, of_template)).map(|plan| {
            plan.settings.into_iter().find_map(|setting| match setting {
                Setting::Platform(mut platform) => {
                    assert_eq!(platform.get("acpi").map(String::as_str), Some("1"));
                    platform.remove(CORES_PER_SOCKET)
                }
                _ => None,
            })
        })
    };
    assert_eq!(cores(Some(2), None, None).unwrap(), None);
    assert_eq!(cores(Some(8), None, Some("4")).unwrap(), None);
    assert_eq!(
        cores(Some(2), None, Some("4")).unwrap().as_deref(),
        Some("2")
    );
    assert_eq!(
        cores(Some(2), None, Some("x")).unwrap().as_deref(),
        Some("2")
    );
    assert_eq!(
        cores(Some(2), None, Some("0")).unwrap().as_deref(),
        Some("2")
    );
    assert_eq!(
        cores(None, Some(2), Some("4")).unwrap().as_deref(),
        Some("2")
    );
    assert_eq!(cores(None, Some(4), Some("4")).unwrap(), None);
    assert!(matches!(
        cores(None, Some(3), None),
        Err(Error::Topology { .. })
    ));
}

#[test]
fn memory_keeps_the_static_minimum_and_may_not_be_below_it() {
    let mut wish = wish();
    wish.memory = Some(ByteSize(1 << 30));
    let plan_of = |wish: &Wish| plan(wish, template(1, 1, None));
    assert!(
        plan_of(&wish)
            .unwrap()
            .settings
            .iter()
            .any(|setting| matches!(
                setting,
                Setting::Memory {
                    static_min: GIB,
                    memory: GIB
                }
            ))
    );
    wish.memory = Some(ByteSize(4 << 30));
    let plan = plan_of(&wish).unwrap();
    let sets = |setting: &Setting| matches!(setting, Setting::Memory { .. });
    assert!(!plan.settings.iter().any(sets), "it is so already");
    wish.memory = Some(ByteSize(512 << 20));
    assert_eq!(
        plan_of(&wish).unwrap_err().to_string(),
        "512 MiB of memory are below the minimum of the template \"lua\", which is 1 GiB; give at \
         least that"
    );
}

#[test]
fn marks_replace_what_an_installer_would_do_and_keep_the_rest() {
    let cloned = [
        ("disks", "<provision/>"),
        ("mac_seed", "seed"),
        ("bioxen:owner", "other"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    let mut plan = plan(&wish(), template(1, 1, None)).unwrap();
    plan.settings
        .retain(|setting| !matches!(setting, Setting::Keys));
    let config = plan.other_config(cloned, "u-1");
    assert_eq!(
        config.into_iter().collect::<Vec<_>>(),
        [
            ("bioxen:expires".to_owned(), "7".to_owned()),
            ("bioxen:owner".to_owned(), "bioxen".to_owned()),
            ("bioxen:run".to_owned(), "run1".to_owned()),
            ("bioxen:uuid".to_owned(), "u-1".to_owned()),
            ("bioxen:vm-id".to_owned(), "vm1".to_owned()),
            ("mac_seed".to_owned(), "seed".to_owned()),
        ]
    );
    // How it gets its keys is how what is cloned of it will.
    plan.settings.push(Setting::Keys);
    let by_drive = [(FIRST_CONTACT.to_owned(), BY_DRIVE.to_owned())];
    let config = plan.other_config(by_drive.into(), "u-1");
    assert_eq!(config[FIRST_CONTACT], BY_VM_DATA);
}

#[test]
fn disks_grow_or_stay() {
    let sized = |size: u64| {
        let mut wish = wish();
        wish.disk_size = Some(ByteSize(size << 30));
        plan(&wish, template(1, 1, None)).map(|plan| {
            let grows = |setting: &Setting| matches!(setting, Setting::Disk { .. });
            plan.settings.iter().any(grows)
        })
    };
    assert!(sized(9).unwrap());
    assert!(!sized(8).unwrap());
    assert_eq!(
        sized(7).unwrap_err().to_string(),
        "a disk_size of 7 GiB is below that of the template \"lua\", which is 8 GiB; disks can \
         only grow"
    );
}
