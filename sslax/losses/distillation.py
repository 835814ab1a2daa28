"""Cross-entropies between softmaxes of a teacher and a student (DINO, iBOT, SimCLR v2), and I-JEPA's distance of features."""

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp

from sslax.errors import UserError


def cross_view(targets: Sequence[jax.Array] | jax.Array, log_p: Sequence[jax.Array] | jax.Array) -> jax.Array:
  """-sum over K of targets_g log_p_v, mean over the batch and over all pairs of different views g != v.

  What DINO and SwAV share. Each target is in V - 1 pairs, so this is also the mean over targets of the mean over other views.

  Args:
    targets: G arrays [B, K] of probabilities, one for each of the first G views.
    log_p: V >= G arrays [B, K] of log-probabilities, one for each view.

  Returns:
    [] float32.

  Raises:
    UserError: there is no pair of different views.
  """
  g, v = len(targets), len(log_p)
  if g < 1 or v < max(g, 2):
    raise UserError(f'{v} views with targets for the first {g} leave no pair of different views: give at least 2 views.')
  # Each target against the sum of the other views: G reductions instead of G * V, and no matrix product to lose bits in.
  total = sum(log_p[1:], start=log_p[0])
  products = (jnp.sum(targets[i] * (total - log_p[i]), axis=1).mean() for i in range(g))
  return -sum(products, start=jnp.float32(0)) / (g * (v - 1))


def dino(
  student: jax.Array,
  teacher: jax.Array,
  center: jax.Array,
  student_temperature: float | jax.Array,
  teacher_temperature: float | jax.Array,
) -> jax.Array:
  """-sum over K of softmax((teacher_g - center) / T_t) log softmax(student_v / T_s), mean over images and pairs of views g != v.

  Caron et al. 2021 (DINO), https://arxiv.org/abs/2104.14294, eq. 1 and 3; the mean over pairs is the official code's
  (facebookresearch/dino, main_dino.py), the paper's sum is G (V - 1) times it. No gradient is cut: the teacher's logits come from
  parameters that are not trained.

  Args:
    student: [V, B, K] logits of all crops; the first G are the teacher's crops in the same order.
    teacher: [G, B, K] logits of the global crops, G <= V.
    center: [K], subtracted from the teacher's logits.
    student_temperature: 0.1 in the paper.
    teacher_temperature: 0.04 to 0.07 in the paper; lower is sharper.

  Returns:
    [] float32; log(K) when both are uniform.

  Raises:
    UserError: there is no pair of different views.
  """
  chex.assert_rank([student, teacher, center], [3, 3, 1])
  chex.assert_equal_shape_suffix([student, teacher], 2)
  chex.assert_axis_dimension(teacher, 2, center.shape[0])
  target = jax.nn.softmax((teacher.astype(jnp.float32) - center.astype(jnp.float32)[None, None]) / teacher_temperature)
  return cross_view(target, jax.nn.log_softmax(student.astype(jnp.float32) / student_temperature))


def update_center(center: jax.Array, teacher: jax.Array, momentum: float | jax.Array) -> jax.Array:
  """momentum center + (1 - momentum) x the mean of the teacher's logits over crops and images.

  Caron et al. 2021, https://arxiv.org/abs/2104.14294, eq. 4; after the loss, with the logits as they are (before centring and
  temperature).

  Args:
    center: [K].
    teacher: [G, B, K] logits.
    momentum: 0.9 in the paper; 0 forgets, 0.999 is too slow there.

  Returns:
    [K] in the centre's dtype.
  """
  chex.assert_rank([center, teacher], [1, 3])
  chex.assert_axis_dimension(teacher, 2, center.shape[0])
  mean = teacher.astype(jnp.float32).mean(axis=(0, 1))
  return (momentum * center.astype(jnp.float32) + (1 - momentum) * mean).astype(center.dtype)


def masked_patches(targets: jax.Array, log_p: jax.Array, masked: jax.Array) -> jax.Array:
  """-sum over prototypes of targets log_p, mean over the masked patches of each crop, then over all N crops.

  Zhou et al. 2022 (iBOT), https://arxiv.org/abs/2111.07832, eq. 2, as the official codes of iBOT (main_ibot.py) and DINOv2
  (loss/ibot_patch_loss.py) average it: a crop without masked patches adds 0 and counts.

  Args:
    targets: [N, T, K] probabilities of the teacher, which sees every patch.
    log_p: [N, T, K] log-probabilities of the student for the same patches.
    masked: [N, T] bool, 1 = the student did not see this patch; 0 = does not count.

  Returns:
    [] float32.
  """
  chex.assert_rank([targets, log_p, masked], [3, 3, 2])
  chex.assert_equal_shape([targets, log_p])
  chex.assert_equal_shape_prefix([targets, masked], 2)
  each = jnp.where(masked, -jnp.sum(targets * log_p, axis=2), 0.0)
  return (each.sum(axis=1) / jnp.maximum(masked.sum(axis=1), 1)).mean()


def update_patch_center(center: jax.Array, teacher: jax.Array, masked: jax.Array, momentum: float | jax.Array) -> jax.Array:
  """momentum center + (1 - momentum) x the mean of the teacher's logits over masked patches; as it is where none is masked.

  DINOv2's official code (loss/ibot_patch_loss.py). iBOT's averages over all patches, masked or not, for which the head would have
  to see them all; which patches are masked is random, so the means differ by chance and by the border's smaller share.

  Args:
    center: [K].
    teacher: [N, T, K] logits.
    masked: [N, T] bool, 1 = masked.
    momentum: 0.9 in the papers.

  Returns:
    [K] in the centre's dtype.
  """
  chex.assert_rank([center, teacher, masked], [1, 3, 2])
  total = jnp.sum(teacher.astype(jnp.float32), axis=(0, 1), where=masked[..., None])
  count = masked.sum()
  moved = momentum * center.astype(jnp.float32) + (1 - momentum) * total / jnp.maximum(count, 1)
  return jnp.where(count > 0, moved, center.astype(jnp.float32)).astype(center.dtype)


def predict_features(prediction: jax.Array, target: jax.Array, valid: jax.Array, kind: str = 'smooth_l1') -> jax.Array:
  """Distance of predicted and target features, mean over channels and over the patches that count.

  Assran et al. 2023 (I-JEPA), https://arxiv.org/abs/2301.08243: 'l2' is its equation 1 up to the factor D (a sum over channels
  there), 'smooth_l1' what the official code takes (facebookresearch/ijepa, src/train.py): d^2 / 2 below 1, |d| - 1/2 above.

  Args:
    prediction, target: [..., L, D].
    valid: [..., L] bool, 0 = padding.
    kind: 'smooth_l1' or 'l2'.

  Returns:
    [] float32.

  Raises:
    ValueError: no such kind.
  """
  chex.assert_equal_shape([prediction, target])
  chex.assert_equal_shape_prefix([prediction, valid], valid.ndim)
  d = jnp.abs(prediction.astype(jnp.float32) - target.astype(jnp.float32))
  if kind not in ('smooth_l1', 'l2'):
    raise ValueError(f"kind={kind!r} is neither 'smooth_l1' nor 'l2'")
  each = jnp.where(d < 1, d * d / 2, d - 0.5) if kind == 'smooth_l1' else d * d
  return each.mean(axis=-1).mean(where=valid)


def distill(student_logits: jax.Array, teacher_logits: jax.Array, temperature: float | jax.Array) -> jax.Array:
  """-sum over classes of softmax(teacher / T) log softmax(student / T), mean over the batch.

  Chen et al. 2020 (SimCLR v2), https://arxiv.org/abs/2006.10029, eq. 2: both at the same temperature, without the factor T^2 of
  Hinton et al. 2015. No gradient is cut.

  Args:
    student_logits: [B, C].
    teacher_logits: [B, C].
    temperature: 0.1 for self-distillation and 1 for a smaller student in the paper.

  Returns:
    [] float32; the entropy of the teacher's softmax when the student agrees with it.
  """
  chex.assert_rank([student_logits, teacher_logits], 2)
  chex.assert_equal_shape([student_logits, teacher_logits])
  target = jax.nn.softmax(teacher_logits.astype(jnp.float32) / temperature)
  log_p = jax.nn.log_softmax(student_logits.astype(jnp.float32) / temperature)
  return -jnp.sum(target * log_p, axis=1).mean()
