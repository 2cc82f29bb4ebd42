"""Every tensordict key of the project, its shape and its meaning.

Shape letters, used in all docstrings: ``*B`` batch (environments, time), ``n`` agents, ``d_o`` observation, ``d_x``
auxiliary observation, ``d_z`` latent, ``d_s`` state, ``d_t`` target, ``d_v`` view, ``d_a`` action, ``A`` actions to
choose from, ``h`` memory, ``S`` hypotheses, ``K`` diffusion steps.

======================================  ====================  =====================================================
key                                     shape                 meaning (symbol in the paper)
======================================  ====================  =====================================================
``("agents", "observation")``           ``[*B, n, d_o]``      local observation, hidden features zeroed (o_t^i)
``("agents", "last_action")``           ``[*B, n, d_a]``      own previous action, zero after a reset (a_{t-1}^i)
``("agents", "agent_id")``              ``[*B, n, n]``        one-hot index of the agent
``("agents", "aux_observation")``       ``[*B, n, d_x]``      what the state is inferred from (x_t, Eqs. 1 and 2)
``("agents", "latent")``                ``[*B, n, d_z]``      mode selector (z)
``("agents", "inferred_state")``        ``[*B, n, d_s]``      one sample of the global state (s_hat)
``("agents", "hypotheses")``            ``[*B, n, S, d_s]``   S samples of the global state
``("agents", "inferred_mean")``         ``[*B, n, d_s]``      estimate of E[s | x]
``("agents", "inferred_blend")``        ``[*B, n, d_s]``      sample where x leaves a dim open, mean where it does not
``("agents", "view")``                  ``[*B, n, d_v]``      what the actor reads of the inference, turned to the agent
``("agents", "action")``                ``[*B, n, ...]``      action (a_t^i)
``("agents", "action_log_prob")``       ``[*B, n]``           its log-probability under the behaviour policy
``("agents", "logits")``                ``[*B, n, A]``        of a discrete action's distribution
``("agents", "loc")``                   ``[*B, n, d_a]``      location of a continuous action's, before the tanh
``("agents", "scale")``                 ``[*B, n, d_a]``      its standard deviation there
``("agents", "action_mask")``           ``[*B, n, A]``        True where a discrete action is legal
``("agents", "active_mask")``           ``[*B, n, 1]``        True where the agent is alive
``("agents", "state_value")``           ``[*B, n, 1]``        value estimate (V)
``("agents", "advantage")``             ``[*B, n, 1]``        generalised advantage, in a batch that is trained on
``("agents", "value_target")``          ``[*B, n, 1]``        what the critic is fitted to there
``("agents", "reward")``                ``[*B, n, 1]``        reward of the step (under ``"next"``)
``("agents", "episode_reward")``        ``[*B, n, 1]``        return of the episode so far
``"state"``                             ``[*B, d_s]``         true global state; read in training only (s_t)
``("agents", "target_state")``          ``[*B, n, d_t]``      what an agent may infer instead of the state
``("agents", "actor_hidden")``          ``[*B, n, h]``        memory of a recurrent actor before the step
``"critic_hidden"``                     ``[*B, h]``           that of a recurrent critic, one a team; of a critic with
                                                              inputs of each agent ``("agents", "critic_hidden")``
``"time"``                              ``[*B, 1]``           share of the time limit that has passed, 0 to 1
``"step_count"``                        ``[*B, 1]``           steps since the reset (integers)
``"success"``                           ``[*B, 1]``           True where the task is solved, if the task defines it
``"crashed"``                           ``[*B, 1]``           True where the simulator crashed in the step (SMAC)
``"crashes"``                           ``[*B, 1]``           how often it has crashed so far
``"engine_memory"``                     ``[*B, 1]``           what its processes hold, MB, measured at resets
``"engine_processes"``                  ``[*B, 1]``           how many they are, counted at resets
``"valid"``                             ``[*B, 1]``           False on the steps of an episode that a crash ended
``"done", "terminated", "truncated"``   ``[*B, 1]``           TorchRL's; a time limit is ``truncated``
======================================  ====================  =====================================================
"""

AGENTS = "agents"

OBSERVATION = (AGENTS, "observation")
LAST_ACTION = (AGENTS, "last_action")
AGENT_ID = (AGENTS, "agent_id")
AUX_OBSERVATION = (AGENTS, "aux_observation")
LATENT = (AGENTS, "latent")
INFERRED_STATE = (AGENTS, "inferred_state")
HYPOTHESES = (AGENTS, "hypotheses")
INFERRED_MEAN = (AGENTS, "inferred_mean")
INFERRED_BLEND = (AGENTS, "inferred_blend")
VIEW = (AGENTS, "view")
ACTION = (AGENTS, "action")
ACTION_LOG_PROB = (AGENTS, "action_log_prob")
LOGITS = (AGENTS, "logits")
LOC = (AGENTS, "loc")
SCALE = (AGENTS, "scale")
ACTION_MASK = (AGENTS, "action_mask")
ACTIVE_MASK = (AGENTS, "active_mask")
STATE_VALUE = (AGENTS, "state_value")
ADVANTAGE = (AGENTS, "advantage")
VALUE_TARGET = (AGENTS, "value_target")
REWARD = (AGENTS, "reward")
EPISODE_REWARD = (AGENTS, "episode_reward")
TARGET_STATE = (AGENTS, "target_state")
ACTOR_HIDDEN = (AGENTS, "actor_hidden")
CRITIC_HIDDEN = (AGENTS, "critic_hidden")
TEAM_CRITIC_HIDDEN = "critic_hidden"
STATE = "state"
TIME = "time"
SUCCESS = "success"
DONE = "done"
TERMINATED = "terminated"
TRUNCATED = "truncated"
STEP_COUNT = "step_count"
CRASHED = "crashed"
CRASHES = "crashes"
ENGINE_MEMORY = "engine_memory"
ENGINE_PROCESSES = "engine_processes"
VALID = "valid"

INFERENCES = (INFERRED_STATE, INFERRED_MEAN, INFERRED_BLEND, HYPOTHESES)  # all that a state model tells of the state
