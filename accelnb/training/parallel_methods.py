"""`ParallelMethods`: what a loop says where several processes share a sequence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager

import torch

from accelnb.training.gradients import GradientState
from accelnb.training.parallel.context_parallel.apply import context_parallel_on, whole_sequence
from accelnb.training.parallel.mesh import Mesh
from accelnb.training.parallel.plan import Plan
from accelnb.training.prepared import Prepared
from accelnb.training.token_mean import mean_of_tokens


class ParallelMethods:
    """The part of `Accelerator` that divides sequences, and takes means over their tokens.

    Attributes
    ----------
    mesh : Mesh
        The processes in a grid.
    plan : Plan
        How models train.
    """

    mesh: Mesh
    plan: Plan
    gradient_state: GradientState
    _prepared: Prepared

    def maybe_context_parallel(
        self,
        buffers: Sequence[torch.Tensor] | None = None,
        buffer_seq_dims: Sequence[int] | None = None,
        no_restore_buffers: Iterable[torch.Tensor] | None = None,
    ) -> AbstractContextManager[None]:
        """Return a context in which the processes along `cp` or `sp` share each sequence.

        In it, each tensor of `buffers` holds this process's part of it, and attention computed by
        ``torch.nn.functional.scaled_dot_product_attention`` is over the whole sequence. Without
        `cp` and `sp` it does nothing.

        What a model makes from the length of its input is wrong for a part: give it positions,
        and have them among the buffers. Shift labels before the block, and leave out masks of
        padding: padding at the end needs none with causal attention. Give a mask of another kind
        whole. Call `backward` in the block too; after it only where all tensors that the model
        got are in `no_restore_buffers`.

        Parameters
        ----------
        buffers
            Tensors that hold the sequence: inputs, positions, labels.
        buffer_seq_dims
            The dimension of each along which its tokens lie.
        no_restore_buffers
            Those of `buffers` that need not be whole again after the block.

        Raises
        ------
        AccelnbError
            The sequence cannot be divided, and nothing has been changed; or the model computes
            attention in another way, so its results would be of a part of the sequence.

        Examples
        --------
        >>> import torch
        >>> from accelnb import Accelerator
        >>> accelerator = Accelerator()
        >>> tokens = torch.arange(8)[None]
        >>> with accelerator.maybe_context_parallel([tokens], buffer_seq_dims=[1]):
        ...     tokens.shape  # with cp=2: (1, 4)
        torch.Size([1, 8])
        """
        return context_parallel_on(
            self.mesh,
            self.plan,
            self._prepared.models,
            buffers,
            buffer_seq_dims,
            no_restore_buffers,
        )

    def gather_sequence(self, part: torch.Tensor, dim: int = 1) -> torch.Tensor:
        """Return whole sequences of which each process along `cp` or `sp` has a part.

        It is for what a model returns in `maybe_context_parallel`, before metrics are computed
        from it, or `gather_for_metrics` is called. Gradients go through it. Without `cp` and `sp`
        it returns what it was given.

        Parameters
        ----------
        part
            Of one shape on all processes.
        dim
            Along which the tokens lie.

        Examples
        --------
        >>> import torch
        >>> from accelnb import Accelerator
        >>> Accelerator().gather_sequence(torch.zeros(2, 8)).shape
        torch.Size([2, 8])
        """
        return whole_sequence(part, dim, self.mesh)

    def mean_of_tokens(
        self,
        total: torch.Tensor,
        count: torch.Tensor | int | float | None = None,
        *,
        step_count: torch.Tensor | int | float | None = None,
    ) -> torch.Tensor:
        """Return the loss that trains by the mean over all tokens, each counted once.

        A mean on each process gives tokens more weight where there are few: where labels are
        left out, or sequences are of different lengths. The gradients of this loss, once
        `backward` has averaged them, are those of the sum of all losses divided by the number of
        all tokens. All processes must call it. Its mean over the processes is the mean loss.

        Parameters
        ----------
        total
            The sum of this process's losses in this batch, of its part of the sequences.
        count
            Of how many tokens that is: all batches of an accumulation then count alike.
        step_count
            Instead of `count`, to count all tokens of an accumulation alike: the number in all
            its batches, as this process's loader gives them, with whole sequences.

        Raises
        ------
        AccelnbError
            Not one of `count` and `step_count` is given.

        Examples
        --------
        >>> import torch
        >>> from accelnb import Accelerator
        >>> accelerator = Accelerator()
        >>> scores, labels = torch.zeros(4, 10), torch.tensor([1, 2, -100, -100])
        >>> total = torch.nn.functional.cross_entropy(scores, labels, reduction="sum")
        >>> accelerator.mean_of_tokens(total, (labels != -100).sum())
        tensor(2.3026)
        """
        batches = self.gradient_state.plugin.num_steps
        return mean_of_tokens(total, count, step_count, self.mesh, batches)
