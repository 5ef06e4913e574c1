//! Images: from a registry, and from one site to another.
//!
//! An archive from another site is looked through before the engine sees it: the engine would also load other images from
//! it, and give them names that people trust. The engine itself checks that layers match the configuration.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use bollard::query_parameters::{CreateImageOptionsBuilder, ImportImageOptions};
use futures::{StreamExt, TryStreamExt};
use godwit_protocol::{Bytes, ImageId};
use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;

use super::{DockerRuntime, free_bytes, on_thread};
use crate::runtime::Cause;

const FILE: &str = "image.tar";

/// Manifests and configurations are a few kilobytes.
const MAX_JSON: u64 = 4 * 1024 * 1024;

/// An image has at most 127 layers, each with a few entries.
const MAX_ENTRIES: usize = 4096;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    repo_tags: Option<Vec<String>>,
}

impl DockerRuntime {
    /// The image of that name; pulled if it is absent.
    pub(super) async fn obtain_image(&self, reference: &str) -> Result<ImageId, Cause> {
        if let Some((id, _)) = self.inspect_image(reference).await? {
            return Ok(id);
        }
        // A bare name would pull every tag there is.
        let tagged = reference.rsplit('/').next().is_some_and(|last| last.contains([':', '@']));
        let name = if tagged { reference.to_owned() } else { format!("{reference}:latest") };
        let options = CreateImageOptionsBuilder::new().from_image(&name).build();
        let pulled = self.docker.create_image(Some(options), None, None).try_for_each(|_| async { Ok(()) }).await;
        pulled.map_err(|error| Cause::Pull { reference: name.clone(), reason: error.to_string() })?;
        self.inspect_image(&name).await?.map(|(id, _)| id).ok_or(Cause::ImageAbsent(name))
    }

    pub(super) async fn has_image(&self, image: ImageId) -> Result<bool, Cause> {
        Ok(self.inspect_image(&format!("sha256:{image}")).await?.is_some())
    }

    pub(super) async fn image_size(&self, image: ImageId) -> Result<u64, Cause> {
        let found = self.inspect_image(&format!("sha256:{image}")).await?;
        found.map(|(_, size)| size).ok_or_else(|| Cause::ImageAbsent(image.to_string()))
    }

    async fn inspect_image(&self, name: &str) -> Result<Option<(ImageId, u64)>, Cause> {
        let found = match self.docker.inspect_image(name).await {
            Ok(found) => found,
            Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let id = found.id.unwrap_or_default();
        let parsed = id.strip_prefix("sha256:").and_then(|digest| digest.parse().ok());
        let parsed = parsed.ok_or_else(|| Cause::Unsupported(format!("an image with the id `{id}`")))?;
        Ok(Some((parsed, found.size.and_then(|size| size.try_into().ok()).unwrap_or(0))))
    }

    pub(super) async fn save_image_into(&self, image: ImageId, dir: PathBuf) -> Result<Bytes, Cause> {
        let needed = self.image_size(image).await?.saturating_add(16 << 20);
        std::fs::create_dir_all(&dir).map_err(Cause::io("make", &dir))?;
        let free = free_bytes(&dir)?;
        if free < needed {
            return Err(Cause::DiskFull { path: dir, needed, free });
        }
        let (path, beside) = (dir.join(FILE), dir.join("image.tar.new"));
        // By its id, so that the archive holds no name.
        let mut archive = self.docker.export_image(&format!("sha256:{image}")).boxed();
        let mut file = tokio::fs::File::create(&beside).await.map_err(Cause::io("make", &beside))?;
        let mut size = 0;
        while let Some(piece) = archive.try_next().await? {
            file.write_all(&piece).await.map_err(Cause::io("write", &beside))?;
            size += piece.len() as u64;
        }
        let done = async {
            file.flush().await?;
            file.sync_all().await?;
            tokio::fs::rename(&beside, &path).await
        };
        done.await.map_err(Cause::io("write", &path))?;
        Ok(Bytes(size))
    }

    pub(super) async fn load_image_from(&self, image: ImageId, dir: PathBuf) -> Result<(), Cause> {
        if self.has_image(image).await? {
            return Ok(());
        }
        let path = dir.join(FILE);
        let checked = path.clone();
        on_thread(move || check_archive(&checked, image)).await?;
        let file = tokio::fs::File::open(&path).await.map_err(Cause::io("open", &path))?;
        let pieces = ReaderStream::with_capacity(file, 1 << 20);
        let options = ImportImageOptions { quiet: true, ..ImportImageOptions::default() };
        let loaded = self.docker.import_image_stream(options, pieces, None).try_for_each(|_| async { Ok(()) }).await;
        let refused = |why: String| Cause::WrongImage { expected: image, why };
        loaded.map_err(|error| refused(format!("the engine refuses it: {error}")))?;
        if self.has_image(image).await? { Ok(()) } else { Err(refused("loaded, and the image is not there".into())) }
    }
}

/// One image, the expected one, without a name.
fn check_archive(path: &Path, expected: ImageId) -> Result<(), Cause> {
    let refused = |why: &str| Cause::WrongImage { expected, why: why.into() };
    let unreadable = |error: std::io::Error| Cause::WrongImage { expected, why: format!("no archive: {error}") };
    let file = File::open(path).map_err(Cause::io("open", path))?;
    let mut archive = tar::Archive::new(BufReader::new(file));
    let mut manifest = None;
    let mut seen = HashSet::new();
    for entry in archive.entries_with_seek().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        let name = entry.path().map_err(unreadable)?.to_string_lossy().trim_end_matches('/').to_owned();
        if seen.len() >= MAX_ENTRIES || !seen.insert(name.clone()) {
            return Err(refused("too many entries, or one twice"));
        }
        match name.as_str() {
            "manifest.json" => manifest = Some(read_json(&mut entry).map_err(unreadable)?),
            "repositories" => return Err(refused("it names images")),
            "index.json" if named_index(&read_json(&mut entry).map_err(unreadable)?) => {
                return Err(refused("its index names images, or has several"));
            }
            _ => {}
        }
    }
    let manifest = manifest.ok_or_else(|| refused("no manifest"))?;
    let images: Vec<Entry> = serde_json::from_str(&manifest).map_err(|_| refused("a manifest of another form"))?;
    let [image] = images.as_slice() else {
        return Err(refused("not one image"));
    };
    if image.repo_tags.as_ref().is_some_and(|tags| !tags.is_empty()) {
        return Err(refused("it names the image"));
    }
    // Where the file is named after its digest, the engine checks the digest; where it is not, the loaded image's id tells.
    if image.config.contains(&expected.to_string()) { Ok(()) } else { Err(refused("another image")) }
}

/// An index for newer engines beside the manifest: one image, without annotations that name it.
fn named_index(json: &str) -> bool {
    let Ok(index) = serde_json::from_str::<serde_json::Value>(json) else {
        return true;
    };
    let Some(manifests) = index.get("manifests").and_then(|manifests| manifests.as_array()) else {
        return true;
    };
    let named = |manifest: &serde_json::Value| {
        let annotations = manifest.get("annotations").and_then(|annotations| annotations.as_object());
        annotations.is_some_and(|all| all.keys().any(|key| key.ends_with("image.name") || key.ends_with("ref.name")))
    };
    manifests.len() != 1 || manifests.iter().any(named)
}

fn read_json(entry: &mut impl Read) -> std::io::Result<String> {
    let mut json = String::new();
    entry.take(MAX_JSON + 1).read_to_string(&mut json)?;
    if json.len() as u64 > MAX_JSON { Err(std::io::Error::other("its JSON is too long")) } else { Ok(json) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTED: ImageId = ImageId([0xab; 32]);

    fn check(entries: &[(&str, &str)]) -> Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let mut archive = tar::Builder::new(File::create(&path).unwrap());
        for (name, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        archive.into_inner().unwrap();
        check_archive(&path, EXPECTED).map_err(|cause| match cause {
            Cause::WrongImage { why, .. } => why,
            other => other.to_string(),
        })
    }

    fn manifest(tags: &str) -> String {
        format!(r#"[{{"Config":"blobs/sha256/{EXPECTED}","RepoTags":{tags},"Layers":["blobs/sha256/1"]}}]"#)
    }

    #[test]
    fn the_expected_image_without_a_name_is_taken() {
        let index = r#"{"schemaVersion":2,"manifests":[{"digest":"sha256:1","annotations":{}}]}"#;
        assert_eq!(check(&[("index.json", index), ("manifest.json", &manifest("null"))]), Ok(()));
        assert_eq!(check(&[("manifest.json", &manifest("[]"))]), Ok(()));
    }

    #[test]
    fn an_archive_that_would_bring_more_is_refused() {
        let good = manifest("null");
        let other = r#"[{"Config":"1.json","RepoTags":null}]"#;
        let two = r#"[{"Config":"1.json","RepoTags":null},{"Config":"2.json","RepoTags":null}]"#;
        let named = r#"{"manifests":[{"annotations":{"io.containerd.image.name":"debian"}}]}"#;
        for entries in [
            vec![("manifest.json", manifest(r#"["debian:latest"]"#))],
            vec![("manifest.json", other.to_owned())],
            vec![("manifest.json", two.to_owned())],
            vec![("manifest.json", "{}".to_owned())],
            vec![("manifest.json", good.clone()), ("repositories", "{}".to_owned())],
            vec![("manifest.json", good.clone()), ("index.json", named.to_owned())],
            vec![("manifest.json", good.clone()), ("manifest.json", good.clone())],
            vec![("layer.tar", String::new())],
        ] {
            let entries: Vec<_> = entries.iter().map(|(name, content)| (*name, content.as_str())).collect();
            assert!(check(&entries).is_err(), "{entries:?}");
        }
    }
}
