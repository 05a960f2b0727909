defmodule Sango.Error do
  @moduledoc """
  What went wrong, as clients see it: a stable `code`, a `message` for people, and the HTTP `status` that goes with it.

  The codes are those of the one error table (`Sango.error_table/0`), whether the error comes from the engine or
  from this application.

      iex> error = Sango.Error.new({"unknown_job", "there is no job x", 404})
      iex> error.code
      "unknown_job"
      iex> Exception.message(error)
      "there is no job x"
  """

  defexception [:code, :message, :status]

  @type t :: %__MODULE__{code: String.t(), message: String.t(), status: 400..599}

  @typedoc "An error as the NIF gives it: code, message, HTTP status."
  @type reason :: {code :: String.t(), message :: String.t(), status :: pos_integer}

  @doc "The error that a reason of the NIF stands for."
  @spec new(reason) :: t
  def new({code, message, status}) when is_binary(code) and is_binary(message) and is_integer(status) do
    %__MODULE__{code: code, message: message, status: status}
  end

  @doc """
  The body of an HTTP error and the response of a channel error.

      iex> Sango.Error.body(Sango.Error.new({"expired", "the result is gone", 410}))
      %{"error" => %{"code" => "expired", "message" => "the result is gone", "status" => 410}}
  """
  @spec body(t) :: %{String.t() => map}
  def body(%__MODULE__{} = error) do
    %{"error" => %{"code" => error.code, "message" => error.message, "status" => error.status}}
  end

  @doc false
  def queue_full(message), do: new({"queue_full", message, 503})

  @doc false
  def shutting_down(message), do: new({"shutting_down", message, 503})

  @doc false
  def internal(message), do: new({"internal", message, 500})
end
