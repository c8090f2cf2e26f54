r"""Guidance: a model turned into an eps_model that is asked for classes, as loudly as you like.

What a function here returns is an `eps_model(x_t, t)` as in ddpm.py, so every sampler takes it. The
scale s is that of Imagen (arXiv 2205.11487, equation 2) and most libraries: 0 does not ask, 1 asks
plainly, more than 1 asks more loudly. Ho and Salimans 2022 (arXiv 2207.12598) write s = 1 + w.
`conditional(labels)` is the eps_model of images with these labels, (N,), such as Model.conditional;
`unknown` is the label that means "class unknown", the number of classes in our network.
"""
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ddpm import EpsModel, at, per_image

Conditional = Callable[[Tensor], EpsModel]


def classifier_free(conditional: Conditional, labels: Tensor, scale: float, unknown: int
                    ) -> EpsModel:
    """eps(x_t) + s (eps(x_t, c) - eps(x_t)) (Ho and Salimans, equation 6, with s = 1 + w).

    Each image has its own label, (N,). Both answers come from one call with a batch of 2 N.
    """
    return mixed(conditional, [labels], [scale], unknown)


def mixed(conditional: Conditional, labels: Sequence[Tensor], scales: Sequence[float], unknown: int
          ) -> EpsModel:
    """eps(x_t) + the sum over k of s_k (eps(x_t, c_k) - eps(x_t)): several wishes at once.

    Liu et al. 2022 (arXiv 2206.01714, conjunction). labels holds K tensors (N,), scales K numbers;
    a negative one asks for anything else. One call with a batch of (K + 1) N answers all.
    """
    assert len(labels) == len(scales)
    together = conditional(torch.cat([torch.full_like(labels[0], unknown), *labels]))

    def eps_model(x_t: Tensor, t: Tensor) -> Tensor:
        times = len(scales) + 1
        plain, *asked = together(torch.cat([x_t] * times), torch.cat([t] * times)).chunk(times)
        return plain + sum(s * (eps - plain) for s, eps in zip(scales, asked, strict=True))
    return eps_model


def switched(early: EpsModel, late: EpsModel, time: int) -> EpsModel:
    """`early` while t > time, which is first when one samples, and `late` from then on.

    A wish that changes on the way; or, with a guided and an unguided model, guidance in an interval
    (Kynkaanniemi et al. 2024, arXiv 2404.07724). All images are at the same t.
    """
    return lambda x_t, t: early(x_t, t) if int(t[0]) > time else late(x_t, t)


def classifier_guided(eps_model: EpsModel, classifier: EpsModel, labels: Tensor, alpha_bar: Tensor,
                      scale: float) -> EpsModel:
    """eps(x_t) - s sqrt(1 - alpha_bar_t) grad log p_t(c | x_t), the gradient in x_t.

    Dhariwal and Nichol 2021 (arXiv 2105.05233, equation 14 and section 4.3). `classifier(x_t, t)`
    returns logits (N, K) for the NOISED images x_t; labels are (N,).
    """
    def guided(x_t: Tensor, t: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            log_p = classifier(x, t).log_softmax(1)[torch.arange(len(x)), labels]
            slope, = torch.autograd.grad(log_p.sum(), x)
        return eps_model(x_t, t) - scale * per_image((1 - at(alpha_bar, t)).sqrt(), x_t) * slope
    return guided
