defmodule SangoWeb.Serializer do
  @moduledoc """
  Frames of Phoenix Channels V2, `[join_ref, ref, topic, event, payload]`, with every refusal in the shape of the
  protocol, those of Phoenix itself included.
  """

  @behaviour Phoenix.Socket.Serializer

  alias Phoenix.Socket.{Message, Reply, V2}
  alias SangoWeb.Errors

  # References, topics and events are short; what is longer is no client's.
  @max_name 256

  @doc "Reads a frame. The error is a sentence for the person who wrote it."
  @spec read(binary, :text | :binary) :: {:ok, Message.t()} | {:error, String.t()}
  def read(_frame, :binary), do: {:error, "frames are JSON text, not binary"}

  def read(frame, :text) do
    case Jason.decode(frame) do
      {:ok, [join_ref, ref, topic, event, payload]} ->
        message = %Message{join_ref: join_ref, ref: ref, topic: topic, event: event, payload: payload}
        if ref?(join_ref) and ref?(ref) and name?(topic) and name?(event), do: {:ok, message}, else: wrong()

      {:ok, _} ->
        wrong()

      {:error, error} ->
        {:error,
         "a frame is [join_ref, ref, topic, event, payload], as JSON: #{Jason.DecodeError.message(error)}"}
    end
  end

  # `SangoWeb.Socket` has read the frame already.
  @impl true
  def decode!(%Message{} = message, _options), do: message

  @impl true
  def encode!(%Reply{status: :error, payload: %{reason: reason}} = reply) do
    body = reason |> refusal(reply.topic) |> Sango.Error.body()
    V2.JSONSerializer.encode!(%{reply | payload: body})
  end

  def encode!(message), do: V2.JSONSerializer.encode!(message)

  @impl true
  defdelegate fastlane!(broadcast), to: V2.JSONSerializer

  # What Phoenix says by itself.
  defp refusal("unmatched topic", topic), do: unjoined(topic)

  defp refusal("too many channels joined", _topic) do
    Errors.new("too_many_topics", "a socket joins at most #{SangoWeb.UserSocket.max_topics()} topics")
  end

  defp refusal(_reason, topic), do: Errors.new("internal", "a bug in Sango: joining `#{topic}` failed")

  @doc "The refusal of a message on a topic that is not joined."
  @spec unjoined(String.t()) :: Sango.Error.t()
  def unjoined(topic), do: Errors.new("unknown_topic", "`#{topic}` is not joined")

  defp wrong do
    {:error,
     "a frame is [join_ref, ref, topic, event, payload]: two references (text, number or null) " <>
       "and two texts of at most #{@max_name} bytes, and any JSON"}
  end

  defp ref?(ref), do: is_nil(ref) or is_integer(ref) or name?(ref)
  defp name?(text), do: is_binary(text) and byte_size(text) <= @max_name
end
