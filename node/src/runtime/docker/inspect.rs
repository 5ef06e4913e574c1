//! What the engine says about a container.

use std::path::PathBuf;

use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::{InspectContainerOptions, ListContainersOptionsBuilder};
use godwit_protocol::ContainerId;
use serde::{Deserialize, Serialize};

use super::{DockerRuntime, LABEL_SPEC};
use crate::runtime::{Cause, Spec, State};

/// What we need to know of a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Container {
    pub id: String,
    pub state: State,
    /// Its first process, while it runs.
    pub pid: Option<u32>,
    /// When it was last started, in the engine's words: another start gives another text.
    pub started_at: String,
    /// Its writable layer.
    pub upper: Option<PathBuf>,
    /// Where its root file system is mounted, from its start to its end.
    pub merged: Option<PathBuf>,
    /// Its volumes: where they are mounted, where they are.
    pub volumes: Vec<(String, PathBuf)>,
    spec: Option<String>,
}

impl Container {
    pub fn spec(&self) -> Result<Spec, Cause> {
        Ok(Spec::from_json(self.spec.as_deref().unwrap_or_default())?)
    }

    /// Its folder in the engine's data directory.
    pub fn folder(&self, root: &std::path::Path) -> PathBuf {
        root.join("containers").join(&self.id)
    }

    /// Its log in the engine's own format. (The engine itself names it only after the first start.)
    pub fn log(&self, root: &std::path::Path) -> PathBuf {
        self.folder(root).join(format!("{}-json.log", self.id))
    }

    pub fn upper(&self) -> Result<&PathBuf, Cause> {
        self.upper.as_ref().ok_or_else(|| Cause::Unsupported("the engine's storage driver is not overlay2".into()))
    }

    pub fn merged(&self) -> Result<&PathBuf, Cause> {
        self.merged.as_ref().ok_or_else(|| Cause::Unsupported("the engine's storage driver is not overlay2".into()))
    }

    fn new(id: &str, said: ContainerInspectResponse) -> Self {
        let state = said.state.unwrap_or_default();
        let pid = state.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
        let started_at = state.started_at.unwrap_or_default();
        // The engine's zero time. A failed start leaves it.
        let ran = !started_at.is_empty() && !started_at.starts_with("0001-");
        let state = match state.running {
            Some(true) => State::Running,
            _ if ran => State::Ended { code: state.exit_code.unwrap_or(0) },
            _ => State::Prepared,
        };
        let mut driver = said.graph_driver.filter(|driver| driver.name == "overlay2");
        let mut folder = |name| driver.as_mut().and_then(|driver| driver.data.remove(name)).map(PathBuf::from);
        let (upper, merged) = (folder("UpperDir"), folder("MergedDir"));
        let volume = |mount: bollard::models::MountPoint| {
            let is_volume = mount.typ.as_deref() == Some("volume");
            Some((mount.destination?, PathBuf::from(mount.source?))).filter(|_| is_volume)
        };
        let mut volumes: Vec<_> = said.mounts.unwrap_or_default().into_iter().filter_map(volume).collect();
        volumes.sort();
        Self {
            id: said.id.unwrap_or_else(|| id.to_owned()),
            state,
            pid,
            started_at,
            upper,
            merged,
            volumes,
            spec: said.config.and_then(|config| config.labels).and_then(|mut labels| labels.remove(LABEL_SPEC)),
        }
    }
}

impl DockerRuntime {
    /// The engine's container with this id in the mesh, if there is one.
    pub(super) async fn find(&self, container: ContainerId) -> Result<Option<Container>, Cause> {
        // The engine would not answer before it has started it.
        if let Some(entering) = Container::entering(&self.place(container)) {
            return Ok(Some(entering));
        }
        let options = ListContainersOptionsBuilder::new().all(true).filters(&self.labels(Some(container))).build();
        let Some(id) = self.docker.list_containers(Some(options)).await?.into_iter().find_map(|summary| summary.id)
        else {
            return Ok(None);
        };
        match self.inspect_id(&id).await {
            Ok(found) => Ok(Some(found)),
            Err(Cause::Absent) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn expect(&self, container: ContainerId) -> Result<Container, Cause> {
        self.find(container).await?.ok_or(Cause::Absent)
    }

    pub(super) async fn inspect_id(&self, id: &str) -> Result<Container, Cause> {
        Ok(Container::new(id, self.docker.inspect_container(id, None::<InspectContainerOptions>).await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn container(said: serde_json::Value) -> Container {
        Container::new("ab", serde_json::from_value(said).unwrap())
    }

    #[test]
    fn a_state_is_what_the_engine_says_it_is() {
        let state = |running, started: &str, code| {
            container(json!({"State": {"Running": running, "StartedAt": started, "ExitCode": code}})).state
        };
        let (never, once) = ("0001-01-01T00:00:00Z", "2026-11-22T04:12:56.175051522Z");
        assert_eq!(state(true, once, 0), State::Running);
        assert_eq!(state(false, once, 137), State::Ended { code: 137 });
        assert_eq!(state(false, never, 0), State::Prepared);
        // A start that failed did not make it run.
        assert_eq!(state(false, never, 128), State::Prepared);
    }

    #[test]
    fn paths_are_taken_where_the_engine_has_them() {
        let found = container(json!({
            "GraphDriver": {"Name": "overlay2", "Data": {"UpperDir": "/d/overlay2/x/diff", "MergedDir": "/d/m"}},
            "Mounts": [
                {"Type": "volume", "Source": "/d/volumes/b/_data", "Destination": "/b"},
                {"Type": "bind", "Source": "/etc", "Destination": "/etc"},
                {"Type": "volume", "Source": "/d/volumes/a/_data", "Destination": "/a"},
            ],
        }));
        assert_eq!(found.upper().unwrap(), &PathBuf::from("/d/overlay2/x/diff"));
        assert_eq!(found.merged().unwrap(), &PathBuf::from("/d/m"));
        assert_eq!(found.volumes.iter().map(|(at, _)| at.as_str()).collect::<Vec<_>>(), ["/a", "/b"]);
        let other = container(json!({"GraphDriver": {"Name": "btrfs", "Data": {}}}));
        assert!(matches!(other.upper(), Err(Cause::Unsupported(_))));
    }
}
