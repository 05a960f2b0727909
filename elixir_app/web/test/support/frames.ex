defmodule SangoWeb.Frames do
  @moduledoc "A channel socket without the network: the test is its connection, and writes and reads frames as text."

  import ExUnit.Assertions

  alias SangoWeb.Socket

  @doc "Opens a socket."
  def open do
    {:ok, state} =
      Socket.connect(%{
        endpoint: SangoWeb.Endpoint,
        transport: :websocket,
        options: [serializer: [{SangoWeb.Serializer, "~> 2.0"}]],
        params: %{"vsn" => "2.0.0"},
        connect_info: %{}
      })

    {:ok, state} = Socket.init(state)
    Process.put(__MODULE__, state)
    :ok
  end

  @doc "Sends a frame as it is."
  def raw(frame, opcode \\ :text), do: Socket.handle_in({frame, opcode: opcode}, state()) |> keep()

  @doc "Sends a message; gives its reference back."
  def push(join_ref, topic, event, payload) do
    ref = to_string(System.unique_integer([:positive]))
    raw(Jason.encode!([join_ref, ref, topic, event, payload]))
    ref
  end

  @doc "Sends a message and waits for its reply: status and response."
  def ask(join_ref, topic, event, payload) do
    ref = push(join_ref, topic, event, payload)
    [_, _, ^topic, "phx_reply", reply] = until(fn [_, found | _] -> found == ref end)
    {reply["status"], reply["response"]}
  end

  @doc "Joins a topic; the reference of the join is given back with the reply."
  def join(topic, params) do
    ref = to_string(System.unique_integer([:positive]))
    raw(Jason.encode!([ref, ref, topic, "phx_join", params]))
    [^ref, ^ref, ^topic, "phx_reply", reply] = until(fn [_, found | _] -> found == ref end)
    {ref, reply["status"], reply["response"]}
  end

  @doc "The next frame."
  def next, do: until(fn _ -> true end)

  @doc "The next frame of which this is true; those before it are passed over."
  def until(wanted?) do
    frame = take()
    if wanted?.(frame), do: frame, else: until(wanted?)
  end

  defp take do
    receive do
      {:test_frame, frame} ->
        Jason.decode!(frame)

      {:sango, _, _} = message ->
        flunk("a message for a channel came to the socket: #{inspect(message)}")

      message ->
        message |> Socket.handle_info(state()) |> keep()
        take()
    after
      10_000 -> flunk("no frame came")
    end
  end

  defp state, do: Process.get(__MODULE__)

  defp keep(result) do
    case result do
      {:ok, state} -> Process.put(__MODULE__, state)
      {:push, frame, state} -> put(frame, state)
      {:reply, _status, frame, state} -> put(frame, state)
    end
  end

  defp put({:text, frame}, state) do
    send(self(), {:test_frame, IO.iodata_to_binary(frame)})
    Process.put(__MODULE__, state)
  end
end
