"""A training loop of one's own: GlobeDiff in front of an actor written by hand, with TorchRL's parts around them."""

import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.collectors import Collector
from torchrl.modules import MLP, NormalParamExtractor, ProbabilisticActor, TanhNormal

from globediff_torchrl import Fitter, GlobeDiff, evaluate, fit, make_critic, make_env
from globediff_torchrl.policies import update_input_statistics
from globediff_torchrl.state_models import pairs_of
from globediff_torchrl.training import Advantages, make_loss

ENVS, ITERATIONS, EPOCHS, MINIBATCH = 32, 3, 4, 480
torch.manual_seed(0)
env = make_env("vmas/hunt", num_envs=ENVS, seed=0)  # or wrap_env(<your TorchRL environment>, ...)
task = env.task  # sizes, layouts, time limit

# 1. the state model: pairs (x, s) of random actions, a short fit; a real run takes 60,000 pairs and 3,000 steps
globediff = GlobeDiff.from_env(env, preset="fast")
pairs = env.rollout(2 * task.max_steps, break_when_any_done=False)
fitter = Fitter(globediff)  # trains a copy; globediff itself holds the moving average, which is what acts
fit(globediff, pairs, steps=200, fitter=fitter, progress=False)

# 2. the actor: any TorchRL module that reads what the state model writes; the agents share the network
reads = [("agents", "observation"), ("agents", "inferred_state"), ("agents", "agent_id")]
action = env.full_action_spec_unbatched["agents", "action"]  # of one environment: [n, d_a]
size = task.observation_layout.size + task.inferred_layout.size + task.n_agents
network = TensorDictSequential(
    TensorDictModule(
        MLP(size, 2 * action.shape[-1], num_cells=[64, 64], activation_class=nn.Tanh),  # joins what it is given
        in_keys=reads,
        out_keys=[("agents", "parameters")],
    ),
    TensorDictModule(
        NormalParamExtractor(), in_keys=[("agents", "parameters")], out_keys=[("agents", "loc"), ("agents", "scale")]
    ),
)
actor = ProbabilisticActor(
    network,
    in_keys={"loc": ("agents", "loc"), "scale": ("agents", "scale")},
    out_keys=[("agents", "action")],
    spec=env.full_action_spec_unbatched,
    distribution_class=TanhNormal,
    distribution_kwargs={"low": action.space.low[0], "high": action.space.high[0]},  # [d_a]: the same for all agents
    return_log_prob=True,
    log_prob_key=("agents", "action_log_prob"),  # where the loss looks for it
)
policy = TensorDictSequential(globediff, actor)

# 3. critic and loss: the loss gets the actor alone, and replays the inference that the rollout stored
critic = make_critic(env)  # reads "state"; input_norm="running": see update_input_statistics below
loss = make_loss(
    actor,
    critic,
    None,
    gamma=0.98,
    lmbda=0.95,
    clip_epsilon=0.2,
    clip_value=True,
    entropy_coeff=0.0,
    critic_coeff=1.0,
)
advantages = Advantages(loss)  # MultiAgentGAE, normalised over batch and agents
optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3)
update_input_statistics(critic, pairs)

# 4. the loop; a batch is [ENVS, max_steps]: an episode of each environment
frames = ENVS * task.max_steps
collector = Collector(
    env, policy, frames_per_batch=frames, total_frames=ITERATIONS * frames, auto_register_policy_transforms=False
)
returns = []
for batch in collector:
    advantages(batch)
    rows = batch.reshape(-1)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(rows)).split(MINIBATCH):
            terms = loss(rows[chosen])
            sum(value for name, value in terms.items() if name.startswith("loss_")).backward()
            nn.utils.clip_grad_norm_(loss.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
    update_input_statistics(critic, batch)  # after the update: within it, old and new values must mean the same
    for _ in range(10):  # the state model goes on learning where the team now goes
        fitter.step(rows[torch.randint(len(rows), (256,))], lr=1e-3)
    fitter.update_final_scale(*pairs_of(globediff, rows).spread(16_384))  # what it now leaves open
    collector.update_policy_weights_()
    returns.append(batch["next", "agents", "episode_reward"][batch["next", "done"].squeeze(-1)].mean().item())
    print(f"{len(returns)} of {ITERATIONS}: return {returns[-1]:.3f}, kl {terms['kl_approx'].mean():.4f}")
collector.shutdown(close_env=False)

# 5. whole episodes under a seed of their own, deterministic and stochastic
results = evaluate(make_env("vmas/hunt", num_envs=ENVS, seed=None), policy, seed=10_000)
print(f"evaluated: return {results['deterministic/return']:.3f}, success {results['deterministic/success']:.2f}")
