"""What the baselines that have weights share with Dense."""

from typing import Any

import keras

from keras_lsh._arguments import check_argument, is_integer


class DenseVariant(keras.layers.Layer):
    """Dense's arguments, bias and shapes. Subclasses add the kernel, and call.

    Not a subclass of Dense, which saves its own two weights and no others, and may be
    quantized behind a subclass's back.
    """

    def __init__(
        self,
        units: int,
        activation: Any,
        use_bias: bool,
        kernel_initializer: Any,
        bias_initializer: Any,
        kernel_regularizer: Any,
        bias_regularizer: Any,
        activity_regularizer: Any,
        kernel_constraint: Any,
        bias_constraint: Any,
        **kwargs: Any,
    ):
        check_argument(
            "units", units, is_integer(units) and units > 0, "a positive integer"
        )
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self.units = int(units)
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.input_spec = keras.layers.InputSpec(min_ndim=2)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        input_dim = input_shape[-1]
        if input_dim is None:
            raise ValueError(
                f"The last axis of the inputs of {type(self).__name__} must be "
                f"defined. Received: input_shape={tuple(input_shape)}"
            )
        self._add_kernel(input_dim)
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(self.units,),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: input_dim})
        self.built = True

    def _add_kernel(self, input_dim: int) -> None:
        raise NotImplementedError

    def _products(self, inputs: Any, kernel: Any) -> Any:
        """`dot(inputs, kernel) + bias`."""
        products = keras.ops.matmul(inputs, kernel)
        return products if self.bias is None else keras.ops.add(products, self.bias)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        serialized = {"activation": keras.activations.serialize(self.activation)}
        for name in ("kernel_initializer", "bias_initializer"):
            serialized[name] = keras.initializers.serialize(getattr(self, name))
        for name in ("kernel_regularizer", "bias_regularizer", "activity_regularizer"):
            serialized[name] = keras.regularizers.serialize(getattr(self, name))
        for name in ("kernel_constraint", "bias_constraint"):
            serialized[name] = keras.constraints.serialize(getattr(self, name))
        return {
            **super().get_config(),
            "units": self.units,
            "use_bias": self.use_bias,
            **serialized,
        }
