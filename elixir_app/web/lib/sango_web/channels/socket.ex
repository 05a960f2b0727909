defmodule SangoWeb.Socket do
  @moduledoc """
  The transport of `SangoWeb.UserSocket`: Phoenix's, but no frame ends it.

  Phoenix takes it that a client is a Phoenix client: what is not a frame crashes the socket, and a message without a
  join reference, or with one of an earlier join, is dropped in silence. People and their own programs speak to this
  socket, too, so here each of those is answered.
  """

  @behaviour Phoenix.Socket.Transport

  alias Phoenix.Socket.{Message, Reply}
  alias SangoWeb.{Errors, Metrics, Serializer, UserSocket}

  @impl true
  defdelegate child_spec(options), to: UserSocket

  @impl true
  defdelegate drainer_spec(options), to: UserSocket

  @impl true
  defdelegate connect(transport_info), to: UserSocket

  @impl true
  def init(inner) do
    Metrics.count_socket()
    {:ok, inner} = UserSocket.init(inner)
    # With the reference that each topic was joined by.
    {:ok, {inner, %{}}}
  end

  @impl true
  def handle_in({frame, options}, state) do
    case Serializer.read(frame, options[:opcode]) do
      {:ok, message} ->
        handle_message(message, state)

      {:error, complaint} ->
        error = Errors.new("invalid_request", complaint)
        reply(%Message{topic: "phoenix", event: "", payload: %{}}, {:error, Sango.Error.body(error)}, state)
    end
  end

  @impl true
  def handle_info(message, {inner, joins}), do: message |> UserSocket.handle_info(inner) |> with_joins(joins)

  @impl true
  def terminate(reason, {inner, _joins}), do: UserSocket.terminate(reason, inner)

  defp handle_message(%{topic: "phoenix", event: "heartbeat"} = message, state), do: pass(message, state)

  defp handle_message(%{event: "phx_join"} = message, {inner, joins}) do
    case UserSocket.handle_in({message, []}, inner) do
      {:reply, :ok, _, _} = joined -> with_joins(joined, Map.put(joins, message.topic, message.join_ref))
      refused -> with_joins(refused, Map.delete(joins, message.topic))
    end
  end

  defp handle_message(%{topic: topic, event: event} = message, {inner, joins} = state) do
    case {event, joins} do
      {"phx_leave", %{^topic => join_ref}} when message.join_ref in [nil, join_ref] ->
        pass(%{message | join_ref: join_ref}, {inner, Map.delete(joins, topic)})

      # Of an earlier join, or of none: there is nothing to leave.
      {"phx_leave", _} ->
        reply(message, {:ok, %{}}, state)

      {_, %{^topic => join_ref}} when message.join_ref in [nil, join_ref] ->
        pass(%{message | join_ref: join_ref}, state)

      _ ->
        reply(message, {:error, topic |> Serializer.unjoined() |> Sango.Error.body()}, state)
    end
  end

  defp pass(message, {inner, joins}), do: {message, []} |> UserSocket.handle_in(inner) |> with_joins(joins)

  defp reply(message, {status, payload}, state) do
    reply = %Reply{
      join_ref: message.join_ref,
      ref: message.ref,
      topic: message.topic,
      status: status,
      payload: payload
    }

    {:socket_push, opcode, frame} = Serializer.encode!(reply)
    {:reply, status, {opcode, frame}, state}
  end

  # Every result of a transport's callback ends with its state.
  defp with_joins(result, joins) do
    last = tuple_size(result) - 1
    put_elem(result, last, {elem(result, last), joins})
  end
end
