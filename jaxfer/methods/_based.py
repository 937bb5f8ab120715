"""What add-ons share: the method's own `extra` lies under `base` of theirs, and what they can't be put on."""

from __future__ import annotations

import dataclasses

from jaxfer.errors import InputError
from jaxfer.method import Context, Method


def based(method: Method) -> Method:
    """The method reading `extra["base"]`; what else is in `extra` its `update` and `passes` leave as it is.

    `init` is the method's own: the add-on puts what that gives under `base`.
    """

    def base(ctx: Context) -> Context:
        return dataclasses.replace(ctx, extra=ctx.extra["base"])

    passes = method.passes and dataclasses.replace(
        method.passes,
        rows=lambda ctx: method.passes.rows(base(ctx)),
        kept=lambda rows, state: {
            **state.extra,
            "base": method.passes.kept(rows, state.replace(extra=state.extra["base"])),
        },
    )
    return dataclasses.replace(
        method,
        view=lambda params, extra: method.view(params, extra["base"]),
        noisy_view=method.noisy_view and (lambda params, extra, key: method.noisy_view(params, extra["base"], key)),
        evaluated=method.evaluated and (lambda params, extra: method.evaluated(params, extra["base"])),
        statistics=lambda model_state, extra: method.statistics(model_state, extra["base"]),
        intercept=lambda params, extra: method.intercept(params, extra["base"]),
        batch=method.batch and (lambda ctx: method.batch(base(ctx))),
        loss=lambda ctx, outputs: method.loss(base(ctx), outputs),
        gradient=lambda next, ctx, trainable: method.gradient(next, base(ctx), trainable),
        update=lambda ctx, extra: {**extra, "base": method.update(base(ctx), extra["base"])},
        former=method.former and (lambda params, extra: method.former(params, extra["base"])),
        passes=passes,
        merge=method.merge and (lambda params, extra: method.merge(params, extra["base"])),
    )


def check_main(name: str, method: Method) -> None:
    """`InputError` where an add-on reads outputs of the main batch, and the method trains on its streams alone."""
    if not method.main:
        raise InputError(
            f"add-on {name} reads the labelled batch, and this method trains without it; remove it from adds"
        )
