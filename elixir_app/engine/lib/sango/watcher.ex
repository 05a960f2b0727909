defmodule Sango.Watcher do
  @moduledoc """
  Hears from the engine of every job whose state or progress changes, and tells all processes that asked, through the
  registry `Sango.Watchers`.

  Those are registered by themselves, so a crash of this process loses no one. What was missed meanwhile is told as
  `{:sango, :lagged, n}`.
  """

  use GenServer

  alias Sango.{Engine, Supervisor}

  @pause 20

  @doc false
  def start_link(name), do: GenServer.start_link(__MODULE__, name, name: Supervisor.via(name, :watcher))

  @doc "From now on the calling process is told. Asking twice changes nothing."
  @spec watch(atom) :: :ok
  def watch(name) do
    if name not in Registry.keys(Sango.Watchers, self()) do
      {:ok, _} = Registry.register(Sango.Watchers, name, nil)
    end

    :ok
  end

  @doc "From now on the calling process is not told any more."
  @spec unwatch(atom) :: :ok
  def unwatch(name), do: Registry.unregister(Sango.Watchers, name)

  @impl true
  def init(name), do: {:ok, %{name: name, tag: nil, subscription: nil}, {:continue, :watch}}

  @impl true
  def handle_continue(:watch, state), do: {:noreply, listen(state)}

  @impl true
  def handle_info({:sango_job, tag, job}, %{tag: tag} = state) do
    tell(state, {:sango, :job, job})
    {:noreply, state}
  end

  def handle_info({:sango_lagged, tag, n}, %{tag: tag} = state) do
    tell(state, {:sango, :lagged, n})
    {:noreply, state}
  end

  # The engine has closed: wait for the next one.
  def handle_info({:sango_end, tag}, %{tag: tag} = state), do: {:noreply, listen(state)}
  def handle_info(:watch, state), do: {:noreply, listen(state)}
  # Of an earlier engine.
  def handle_info(_message, state), do: {:noreply, state}

  defp listen(state) do
    tag = make_ref()

    case Engine.call(state.name, :watch, [self(), tag]) do
      {:ok, subscription} ->
        # Before this moment changes may have passed unseen.
        tell(state, {:sango, :lagged, 0})
        %{state | tag: tag, subscription: subscription}

      {:error, _closed} ->
        Process.send_after(self(), :watch, @pause)
        %{state | tag: nil, subscription: nil}
    end
  end

  defp tell(state, message) do
    Registry.dispatch(Sango.Watchers, state.name, fn watchers ->
      for {pid, _} <- watchers, do: send(pid, message)
    end)
  end
end
