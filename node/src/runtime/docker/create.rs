//! The mesh's network, and containers on it.

use std::collections::HashMap;
use std::path::PathBuf;

use bollard::models::{
    ContainerCreateBody, DeviceRequest, EndpointIpamConfig, EndpointSettings, HostConfig, HostConfigLogConfig, Ipam,
    IpamConfig, NetworkCreateRequest, NetworkingConfig, PortBinding, RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectNetworkOptions, ListContainersOptionsBuilder, StartContainerOptions,
};
use godwit_protocol::bounded::Text;
use godwit_protocol::container::{Image, Kind};
use godwit_protocol::{Address, Bytes, ContainerId};

use super::{DockerRuntime, LABEL_CONTAINER, LABEL_MESH, LABEL_SPEC, enter, tree_size};
use crate::runtime::depart::{self, Init};
use crate::runtime::network::{self, BRIDGE};
use crate::runtime::{Cause, Deploy, Deployed, Description, Protocol, Range, Spec, State};

/// The engine's name for the mesh's network.
const NETWORK: &str = "godwit";

/// Logs travel with their container: two files of this size at most.
const LOG_SIZE: &str = "8m";
const LOG_FILES: &str = "2";

/// From this version of its API on, the engine takes a MAC address for each network.
const MAC_PER_NETWORK: (usize, usize) = (1, 44);
/// The engine's name for our OCI runtime.
pub const RUNTIME: &str = "godwit";

/// From this version on it takes annotations, without which our OCI runtime does not know where the site listens.
const ANNOTATIONS: (usize, usize) = (1, 43);
/// From this version on it drops what others send to a container's address, unless the network says otherwise.
const GATEWAY_MODE: (usize, usize) = (1, 48);

impl DockerRuntime {
    fn api(&self) -> (usize, usize) {
        let version = self.docker.client_version();
        (version.major_version, version.minor_version)
    }

    /// The network is there, with the mesh's range, and the firewall lets it through.
    pub(super) async fn ensure_network(&self) -> Result<(), Cause> {
        let range = self.config.range;
        match self.docker.inspect_network(NETWORK, None::<InspectNetworkOptions>).await {
            Ok(found) => {
                let config = found.ipam.and_then(|ipam| ipam.config).and_then(|config| config.into_iter().next());
                let subnet = config.and_then(|config| config.subnet).unwrap_or_default();
                if subnet != range.to_string() {
                    return Err(Cause::Network(format!(
                        "the engine's network {NETWORK} has range {subnet}, the mesh has {range}; \
                         docker network rm {NETWORK}"
                    )));
                }
            }
            Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => {
                self.docker.create_network(self.network(range)).await?;
            }
            Err(error) => return Err(error.into()),
        }
        network::open_ways(range).await
    }

    fn network(&self, range: Range) -> NetworkCreateRequest {
        let mut options = HashMap::from([
            ("com.docker.network.bridge.name".to_owned(), BRIDGE.to_owned()),
            ("com.docker.network.bridge.enable_ip_masquerade".to_owned(), "false".to_owned()),
        ]);
        if self.api() >= GATEWAY_MODE {
            let key = "com.docker.network.bridge.gateway_mode_ipv4";
            options.insert(key.to_owned(), "nat-unprotected".to_owned());
        }
        let config = IpamConfig {
            subnet: Some(range.to_string()),
            gateway: Some(range.gateway().to_string()),
            ..IpamConfig::default()
        };
        NetworkCreateRequest {
            name: NETWORK.into(),
            driver: Some("bridge".into()),
            ipam: Some(Ipam { config: Some(vec![config]), ..Ipam::default() }),
            options: Some(options),
            labels: Some(HashMap::from([(LABEL_MESH.to_owned(), self.config.mesh.to_string())])),
            ..NetworkCreateRequest::default()
        }
    }

    pub(super) async fn deploy_new(&self, deploy: Deploy) -> Result<Deployed, Cause> {
        deploy.check()?;
        if self.find(deploy.container).await?.is_some() {
            return Err(Cause::Occupied);
        }
        let id = self.obtain_image(&deploy.image).await?;
        let image = Image { id, reference: Text::clipped(&deploy.image) };
        let spec = Spec { deploy, image: image.clone() };
        let engine_id = self.create(&spec).await?;
        let started = self.docker.start_container(&engine_id, None::<StartContainerOptions>).await;
        if let Err(error) = started {
            // It never ran: nothing of it is worth keeping, and its address must be free for the next attempt.
            let _ = self.remove_found(spec.deploy.container).await;
            return Err(error.into());
        }
        Ok(Deployed { engine_id, image })
    }

    pub(super) async fn start_anew(&self, container: ContainerId) -> Result<(), Cause> {
        let found = self.expect(container).await?;
        if found.state != State::Running {
            if self.is_frozen(container) {
                return Err(Cause::Frozen);
            }
            self.docker.start_container(&found.id, None::<StartContainerOptions>).await?;
            self.runs_here(&found.spec()?).await?;
        }
        Ok(())
    }

    pub(super) async fn describe_into(&self, container: ContainerId, dir: PathBuf) -> Result<Description, Cause> {
        let found = self.expect(container).await?;
        if found.state != State::Running {
            return Err(Cause::NotRunning);
        }
        let spec = found.spec()?;
        let image = Bytes(self.image_size(spec.image.id).await?);
        let (mut memory, mut layer) = (Bytes(0), Bytes(0));
        if spec.deploy.kind == Kind::Stateful {
            memory = self.memory_of(&found.id).await?;
            let trees: Vec<PathBuf> =
                found.volumes.iter().map(|(_, path)| path).chain(found.upper.iter()).cloned().collect();
            layer = super::on_thread(move || Ok(Bytes(trees.iter().map(|tree| tree_size(tree)).sum()))).await?;
        }
        let (written, pid) = (spec.clone(), found.pid.ok_or(Cause::NotRunning)?);
        super::on_thread(move || {
            std::fs::create_dir_all(&dir).map_err(Cause::io("make", &dir))?;
            if written.deploy.kind == Kind::Stateful {
                let stdio = depart::stdio(Init::of(pid)?).map_err(Cause::io("look at the streams for", &dir))?;
                enter::write_stdio(&dir, &stdio)?;
            }
            written.write(&dir)
        })
        .await?;
        Ok(Description { spec, memory, layer, image })
    }

    /// Creates a container; the engine's id for it.
    pub(super) async fn create(&self, spec: &Spec) -> Result<String, Cause> {
        let deploy = &spec.deploy;
        if deploy.kind == Kind::Stateful && self.api() < ANNOTATIONS {
            return Err(Cause::Unsupported("the engine's API is older than 1.43 and takes no annotations".into()));
        }
        if !self.config.range.admits(deploy.address.0) {
            let reason = format!("not an address for containers in {}", self.config.range);
            return Err(Cause::Route { address: deploy.address, reason });
        }
        self.check_conflicts(deploy).await?;
        // Names are unique on an engine, ids in the mesh.
        let name = format!("{}.{}", deploy.name, deploy.container.short());
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        let body = self.body(spec, self.knows_runtime().await?)?;
        Ok(self.docker.create_container(Some(options), body).await?.id)
    }

    fn body(&self, spec: &Spec, knows_runtime: bool) -> Result<ContainerCreateBody, Cause> {
        let deploy = &spec.deploy;
        let labels = HashMap::from([
            (LABEL_MESH.to_owned(), self.config.mesh.to_string()),
            (LABEL_CONTAINER.to_owned(), deploy.container.to_string()),
            (LABEL_SPEC.to_owned(), spec.to_json()?),
        ]);
        let port = |port: &crate::runtime::Port| {
            let protocol = match port.protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
            };
            format!("{}/{protocol}", port.container)
        };
        let mut bindings: HashMap<String, Option<Vec<PortBinding>>> = HashMap::new();
        for published in &deploy.ports {
            let binding = PortBinding { host_ip: None, host_port: Some(published.site.to_string()) };
            bindings.entry(port(published)).or_default().get_or_insert_default().push(binding);
        }
        let gpus = DeviceRequest {
            count: Some(deploy.gpu.into()),
            capabilities: Some(vec![vec!["gpu".into()]]),
            ..DeviceRequest::default()
        };
        let waits = knows_runtime && deploy.kind == Kind::Stateful && self.api() >= ANNOTATIONS;
        let place = self.place(deploy.container).root().to_string_lossy().into_owned();
        let logs = [("max-size", LOG_SIZE), ("max-file", LOG_FILES)].map(|(key, value)| (key.into(), value.into()));
        let host_config = HostConfig {
            nano_cpus: Some(i64::from(deploy.cpu.0) * 1_000_000),
            memory: i64::try_from(deploy.memory.0).ok(),
            // Memory that was swapped out would be read back by every capture.
            memory_swap: i64::try_from(deploy.memory.0).ok(),
            device_requests: (deploy.gpu > 0).then(|| vec![gpus]),
            runtime: waits.then(|| RUNTIME.to_owned()),
            annotations: waits.then(|| HashMap::from([(godwit_oci::ANNOTATION.to_owned(), place)])),
            log_config: Some(HostConfigLogConfig { typ: Some("json-file".into()), config: Some(logs.into()) }),
            network_mode: Some(NETWORK.into()),
            port_bindings: Some(bindings),
            // A second copy must never start by itself.
            restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
            ..HostConfig::default()
        };
        let endpoint = EndpointSettings {
            ipam_config: Some(EndpointIpamConfig {
                ipv4_address: Some(deploy.address.to_string()),
                ..EndpointIpamConfig::default()
            }),
            mac_address: (self.api() >= MAC_PER_NETWORK).then(|| network::mac(deploy.address)),
            ..EndpointSettings::default()
        };
        Ok(ContainerCreateBody {
            hostname: Some(deploy.hostname()),
            image: Some(format!("sha256:{}", spec.image.id)),
            cmd: (!deploy.command.is_empty()).then(|| deploy.command.clone()),
            env: Some(deploy.env.clone()),
            exposed_ports: Some(deploy.ports.iter().map(port).collect()),
            labels: Some(labels),
            tty: Some(false),
            host_config: Some(host_config),
            networking_config: Some(NetworkingConfig {
                endpoints_config: Some(HashMap::from([(NETWORK.into(), endpoint)])),
            }),
            ..ContainerCreateBody::default()
        })
    }

    /// Whether the engine was told of our OCI runtime.
    pub(super) async fn knows_runtime(&self) -> Result<bool, Cause> {
        Ok(self.docker.info().await?.runtimes.is_some_and(|runtimes| runtimes.contains_key(RUNTIME)))
    }

    /// The engine sees a taken address or port only when it starts a container: too late for one that moves.
    async fn check_conflicts(&self, deploy: &Deploy) -> Result<(), Cause> {
        let mine = deploy.address.to_string();
        let listed = self.docker.list_containers(Some(ListContainersOptionsBuilder::new().all(true).build())).await?;
        for other in listed {
            let networks = other.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
            let taken = networks.get(NETWORK).is_some_and(|endpoint| {
                let fixed = endpoint.ipam_config.as_ref().and_then(|config| config.ipv4_address.as_deref());
                endpoint.ip_address.as_deref() == Some(&mine) || fixed == Some(&mine)
            });
            if taken {
                return Err(Cause::AddressTaken(Address(deploy.address.0)));
            }
        }
        for port in &deploy.ports {
            let any = (std::net::Ipv4Addr::UNSPECIFIED, port.site);
            let free = match port.protocol {
                Protocol::Tcp => std::net::TcpListener::bind(any).map(drop),
                Protocol::Udp => std::net::UdpSocket::bind(any).map(drop),
            };
            if free.is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse) {
                return Err(Cause::PortTaken(port.site));
            }
        }
        Ok(())
    }
}
