defmodule SangoWeb.Drain do
  @moduledoc """
  Ends the event streams when the server shuts down. Sockets are drained by Phoenix; an HTTP response that would go on
  for as long as its job has to be told.
  """

  use GenServer

  @topic "drain"

  @doc false
  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc "From now on the calling process is sent `:drain` when the server shuts down."
  @spec subscribe() :: :ok
  def subscribe do
    :ok = Phoenix.PubSub.subscribe(SangoWeb.PubSub, @topic)
  end

  @doc "Ends `subscribe/0`."
  @spec unsubscribe() :: :ok
  def unsubscribe, do: Phoenix.PubSub.unsubscribe(SangoWeb.PubSub, @topic)

  @impl true
  def init(nil) do
    Process.flag(:trap_exit, true)
    {:ok, nil}
  end

  @impl true
  def terminate(_reason, nil) do
    # To this node's streams: the others go on.
    Phoenix.PubSub.local_broadcast(SangoWeb.PubSub, @topic, :drain)
  end
end
