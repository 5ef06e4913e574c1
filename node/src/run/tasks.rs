//! Does what a site's brain asks for: serving, freezing, pulling, resuming.
//!
//! Tasks of one container run one after the other, those of different containers side by side.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use godwit_protocol::bid::Reason;
use godwit_protocol::bounded::Text;
use godwit_protocol::handoff::{Action, Outcome, Task};
use godwit_protocol::word::Word;
use godwit_protocol::{ContainerId, OfferId, SiteId};
