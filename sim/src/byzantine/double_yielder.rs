//! A source that yields one container to several sites, and to one of them several states.

use godwit_protocol::effect::Effect;
use godwit_protocol::yield_::Yield;

use super::{Byzantine, Scene, stray};

#[derive(Debug)]
pub(super) struct DoubleYielder;

impl Byzantine for DoubleYielder {
    fn obey(&mut self, scene: &mut Scene<'_>, effect: Effect) -> Vec<Effect> {
        let Effect::Yield { to, body } = effect else { return vec![effect] };
        let mut yields = vec![Effect::Yield { to, body }];
        yields.push(Effect::Yield { to, body: Yield { root: stray(scene.dice), ..body } });
        for other in scene.state.members().map(|member| member.site).filter(|site| *site != to && *site != scene.me) {
            yields.push(Effect::Yield { to: other, body: Yield { target: other, ..body } });
            yields.push(Effect::Yield { to: other, body: Yield { target: other, attempt: body.attempt + 1, ..body } });
        }
        if scene.dice.chance(5_000) {
            yields.reverse();
        }
        yields
    }
}
