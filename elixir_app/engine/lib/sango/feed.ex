defmodule Sango.Feed do
  @moduledoc """
  Follows one job and passes its events on: to each subscriber first the stored ones it asks for, then the live ones,
  each once and in order.

  One subscription to the engine serves any number of processes. The feed lives while somebody listens, and a moment
  longer for those who come late.

  Subscribers are kept in the instance's table, with how far they have been told. So a feed that crashes, and an engine
  that does, cost them nothing: the next one goes on where the last one stopped. (Only a feed that is killed while it
  passes an event on may pass that one on twice; its number tells.)
  """

  use GenServer, restart: :transient

  alias Sango.{Engine, Supervisor}

  # Until the engine is asked again whether it is open.
  @pause 20
  @linger 1_000
  @last ["finished", "failed", "cancelled"]

  @doc false
  def start_link(name, table, id) do
    GenServer.start_link(__MODULE__, {name, table, id}, name: Supervisor.via(name, {:feed, id}))
  end

  @impl true
  def init({name, table, id}) do
    # So that `terminate/2` runs and subscribers hear of an orderly end.
    Process.flag(:trap_exit, true)

    state = %{
      name: name,
      table: table,
      id: id,
      # The newest first, and its number.
      events: [],
      n: 0,
      ended?: false,
      tag: nil,
      subscription: nil,
      # pid => {monitor, the number after which it is told}
      subscribers: %{},
      idle: nil
    }

    {:ok, state, {:continue, :follow}}
  end

  @impl true
  def handle_continue(:follow, state), do: {:noreply, state |> adopt() |> follow() |> rest()}

  @impl true
  def handle_call({:subscribe, pid, from}, _caller, state) do
    missed = Enum.take_while(state.events, &(&1["n"] > from))
    for event <- Enum.reverse(missed), do: send(pid, {:sango, :event, state.id, event})

    if state.ended? do
      send(pid, {:sango, :end, state.id})
      {:reply, :ok, state}
    else
      {:reply, :ok, state |> put(pid, from) |> rest()}
    end
  end

  def handle_call({:unsubscribe, pid}, _caller, state), do: {:reply, :ok, state |> delete(pid) |> rest()}

  @impl true
  def handle_info({:sango_event, tag, %{"n" => n} = event}, %{tag: tag} = state) when n > state.n do
    for {pid, {_monitor, from}} <- state.subscribers,
        from < n,
        do: send(pid, {:sango, :event, state.id, event})

    :ets.insert(state.table, {{:told, state.id}, n})
    state = %{state | events: [event | state.events], n: n}
    {:noreply, if(event["event"] in @last, do: state |> finish() |> rest(), else: state)}
  end

  # The engine has closed before the job ended: the next one goes on with it.
  def handle_info({:sango_end, tag}, %{tag: tag, ended?: false} = state), do: {:noreply, follow(state)}
  def handle_info(:follow, %{ended?: false} = state), do: {:noreply, state |> follow() |> rest()}

  def handle_info({:DOWN, _monitor, :process, pid, _reason}, state),
    do: {:noreply, state |> delete(pid) |> rest()}

  def handle_info({:idle, timer}, %{idle: {timer, _ref}} = state), do: {:stop, :normal, state}
  # Of an earlier subscription or timer.
  def handle_info(_message, state), do: {:noreply, state}

  @impl true
  def terminate(reason, state) do
    if state.subscription, do: Engine.unsubscribe(state.name, state.subscription)
    # After a crash the next feed takes the subscribers over.
    if orderly?(reason), do: finish(state)
  end

  defp orderly?(reason) when reason in [:normal, :shutdown, :killed], do: true
  defp orderly?({:shutdown, _}), do: true
  defp orderly?(_crash), do: false

  # The subscribers of a feed that crashed.
  defp adopt(state) do
    told =
      case :ets.lookup(state.table, {:told, state.id}) do
        [{_key, n}] -> n
        [] -> 0
      end

    rows = :ets.match(state.table, {{:subscriber, state.id, :"$1"}, :"$2"})
    Enum.reduce(rows, state, fn [pid, from], state -> put(state, pid, max(from, told)) end)
  end

  defp follow(state) do
    tag = make_ref()

    case Engine.call(state.name, :subscribe, [state.id, state.n, self(), tag]) do
      {:ok, subscription} ->
        %{state | tag: tag, subscription: subscription}

      {:error, %{code: "unknown_job"}} ->
        finish(%{state | tag: nil, subscription: nil})

      {:error, _closed} ->
        Process.send_after(self(), :follow, @pause)
        %{state | tag: nil, subscription: nil}
    end
  end

  defp put(state, pid, from) do
    monitor =
      case state.subscribers do
        %{^pid => {monitor, _from}} -> monitor
        _ -> Process.monitor(pid)
      end

    :ets.insert(state.table, {{:subscriber, state.id, pid}, from})
    %{state | subscribers: Map.put(state.subscribers, pid, {monitor, from})}
  end

  defp delete(state, pid) do
    {subscriber, subscribers} = Map.pop(state.subscribers, pid)
    with {monitor, _from} <- subscriber, do: Process.demonitor(monitor, [:flush])
    :ets.delete(state.table, {:subscriber, state.id, pid})
    %{state | subscribers: subscribers}
  end

  # Nothing follows for anybody.
  defp finish(state) do
    state =
      Enum.reduce(Map.keys(state.subscribers), state, fn pid, state ->
        send(pid, {:sango, :end, state.id})
        delete(state, pid)
      end)

    :ets.delete(state.table, {:told, state.id})
    %{state | ended?: true}
  end

  # Starts the clock when nobody listens, and stops it when somebody does.
  defp rest(%{idle: nil, subscribers: subscribers} = state) when subscribers == %{} do
    timer = make_ref()
    %{state | idle: {timer, Process.send_after(self(), {:idle, timer}, @linger)}}
  end

  defp rest(%{idle: {_timer, ref}, subscribers: subscribers} = state) when subscribers != %{} do
    Process.cancel_timer(ref)
    %{state | idle: nil}
  end

  defp rest(state), do: state
end
