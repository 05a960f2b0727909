defmodule Sango.Queue do
  @moduledoc """
  The way into the engine: who is let in, in which order jobs run, and whose jobs end with them.

  * **Admission.** A submission is stored before it is answered. The store counts its unfinished jobs under its lock, so
    their bound holds however many submit at once; this process bounds the submissions in flight and each client's
    share. Whoever is over gets `queue_full` at once.
  * **Fair order.** Priority first, then the clients in turn, then age (`Sango.Queue.Order`). The engine is told whenever
    that differs from what it would do by itself.
  * **Askers.** A job is cancelled when the process that asked for it dies, unless it is `detached`. Asking again
    with the same idempotency key joins: the job lives as long as one of its askers.

  The engine keeps the jobs; this process only ever knows what the engine knows already. When it dies, jobs go on
  running. Started again, it takes up what waits, and who asked for it, where it was.

  Nothing that may take a moment runs in this process: each submission and each cancellation is a task of its own.
  """

  use GenServer

  require Logger

  alias Sango.{Backend, Config, Engine, Error, Supervisor, Telemetry, Watcher}
  alias Sango.Queue.{Ledger, Order}

  @pause 50
  @unfinished ["queued", "interrupted", "running"]

  @doc false
  def start_link({%Config{} = config, table}) do
    GenServer.start_link(__MODULE__, {config, table}, name: Supervisor.via(config.name, :queue))
  end

  @doc "Hands in a job. See `Sango.submit_with_status/2`."
  @spec submit(atom, map, Ledger.ticket()) :: {:ok, {Backend.json(), boolean}} | {:error, Error.t()}
  def submit(name, request, ticket), do: ask(name, {:submit, request, ticket})

  @doc "The waiting jobs in the order in which they will run."
  @spec waiting(atom) ::
          {:ok, [%{id: Backend.id(), client: term, priority: integer}]} | {:error, Error.t()}
  def waiting(name), do: ask(name, :waiting)

  # Without a timeout: the call ends when the queue does, and the disk may take its time.
  defp ask(name, request) do
    GenServer.call(Supervisor.via(name, :queue), request, :infinity)
  catch
    :exit, _reason ->
      {:error,
       Error.shutting_down("no queue is running under the name #{inspect(name)}: try again in a moment")}
  end

  @impl true
  def init({config, table}) do
    Watcher.watch(config.name)

    state = %{
      name: config.name,
      table: table,
      ledger: Ledger.new(config.max_unfinished, config.max_per_client),
      # Of each submission in flight: who waits for its answer, and since when.
      callers: %{},
      # The monitor of each asker.
      monitors: %{},
      # The order that the engine was last told (`nil`: unknown), and the task that is telling it one now.
      arranged: nil,
      arranging: nil,
      dirty?: false
    }

    {:ok, state, {:continue, :take_up}}
  end

  @impl true
  def handle_continue(:take_up, state), do: {:noreply, take_up(state)}

  @impl true
  def handle_call({:submit, request, ticket}, from, state) do
    began = System.monotonic_time()

    case Ledger.admit(state.ledger, ticket) do
      :ok ->
        %{name: name, table: table} = state
        task = async(state, fn -> store(name, table, request, ticket) end)
        ledger = Ledger.begin(state.ledger, task.ref, ticket)

        {:noreply,
         %{state | ledger: ledger, callers: Map.put(state.callers, task.ref, {from, ticket, began})}}

      {:error, error} ->
        refused(state, ticket, error, began)
        {:reply, {:error, error}, state}
    end
  end

  def handle_call(:waiting, _from, %{ledger: ledger} = state) do
    waiting =
      for id <- Order.to_list(ledger.order) do
        %{client: client, priority: priority} = ledger.jobs[id]
        %{id: id, client: client, priority: priority}
      end

    {:reply, {:ok, waiting}, state}
  end

  @impl true
  def handle_info({:sango, :job, view}, state), do: {:noreply, see(state, view)}
  def handle_info({:sango, :lagged, _n}, state), do: {:noreply, take_up(state)}
  def handle_info(:take_up, state), do: {:noreply, take_up(state)}

  # All that changed meanwhile is in one message to the engine.
  def handle_info(:arrange, state), do: {:noreply, arrange(%{state | dirty?: false})}

  def handle_info({ref, answer}, state) when is_map_key(state.callers, ref) do
    Process.demonitor(ref, [:flush])
    {:noreply, settle(state, ref, answer)}
  end

  def handle_info({ref, told}, %{arranging: {ref, order}} = state) do
    Process.demonitor(ref, [:flush])
    state = %{state | arranging: nil, arranged: if(told == :ok, do: order, else: state.arranged)}
    # What changed while the engine was told.
    {:noreply, if(told == :ok, do: changed(state), else: state)}
  end

  def handle_info({:DOWN, ref, :process, _pid, reason}, state) when is_map_key(state.callers, ref) do
    Logger.error("Sango: handing in a job failed: #{Exception.format_exit(reason)}")
    {:noreply, settle(state, ref, {:error, Error.internal("handing in the job failed: see the log")})}
  end

  def handle_info({:DOWN, ref, :process, _pid, _reason}, %{arranging: {ref, _order}} = state) do
    {:noreply, %{state | arranging: nil}}
  end

  def handle_info({:DOWN, _ref, :process, pid, _reason}, state) do
    {abandoned, ledger} = Ledger.abandon(state.ledger, pid)
    state = %{state | ledger: ledger, monitors: Map.delete(state.monitors, pid)}
    Enum.each(abandoned, &cancel(state, &1))
    {:noreply, state}
  end

  # Runs in a task. Whom the job belongs to is written down here, so that a queue that died meanwhile finds it.
  defp store(name, table, request, ticket) do
    with {:ok, {%{"id" => id}, true}} = stored <- Engine.call(name, :submit, [request]) do
      :ets.insert(
        table,
        {{:job, id}, ticket.client, if(is_pid(ticket.asker), do: [ticket.asker], else: :detached)}
      )

      stored
    end
  end

  defp settle(state, ref, answer) do
    {{from, ticket, began}, callers} = Map.pop!(state.callers, ref)
    {ledger, recheck?} = Ledger.settle(state.ledger, ref, answer)
    GenServer.reply(from, answer)
    state = %{state | ledger: ledger, callers: callers}
    if recheck?, do: send(self(), :take_up)

    case answer do
      {:ok, {%{"id" => id}, created?}} ->
        metadata = %{name: state.name, id: id, client: ticket.client, created?: created?}
        Telemetry.execute([:sango, :job, :submit], %{duration: System.monotonic_time() - began}, metadata)
        state |> write_down(id) |> monitor_askers([id]) |> changed()

      {:error, error} ->
        refused(state, ticket, error, began)
        state
    end
  end

  defp refused(state, ticket, error, began) do
    metadata = %{name: state.name, client: ticket.client, code: error.code}
    Telemetry.execute([:sango, :job, :refuse], %{duration: System.monotonic_time() - began}, metadata)
  end

  # Keeps the table in step with the ledger. A job that has ended needs no row.
  defp write_down(state, id) do
    case state.ledger.jobs[id] do
      nil -> :ets.delete(state.table, {:job, id})
      %{askers: :detached} = job -> :ets.insert(state.table, {{:job, id}, job.client, :detached})
      %{askers: askers} = job -> :ets.insert(state.table, {{:job, id}, job.client, MapSet.to_list(askers)})
    end

    state
  end

  defp see(state, %{"id" => id} = view) do
    {change, ledger} = Ledger.see(state.ledger, view)
    state = %{state | ledger: ledger}

    case change do
      :nothing ->
        state

      :waits ->
        changed(state)

      # Where in the order the engine has put it is the engine's to know.
      :waits_again ->
        changed(%{state | arranged: nil})

      :started ->
        metadata = %{name: state.name, id: id, client: ledger.jobs[id].client}

        Telemetry.execute(
          [:sango, :job, :start],
          %{wait_ms: between(view, "created_at", "started_at")},
          metadata
        )

        changed(state)

      {:ended, job} ->
        metadata = %{name: state.name, id: id, client: job && job.client, state: view["state"]}

        Telemetry.execute(
          [:sango, :job, :stop],
          %{run_ms: between(view, "started_at", "finished_at")},
          metadata
        )

        state |> write_down(id) |> release_askers(job) |> changed()
    end
  end

  defp between(view, from, to) do
    if view[from] && view[to], do: view[to] - view[from], else: 0
  end

  defp take_up(state) do
    case unfinished(state.name) do
      {:ok, views} ->
        ledger = Ledger.take_up(state.ledger, views, &signed(state.table, &1))
        forget_ended(state.table, ledger)
        %{state | ledger: ledger, arranged: nil} |> monitor_askers(Map.keys(ledger.jobs)) |> changed()

      {:error, _closed} ->
        Process.send_after(self(), :take_up, @pause)
        state
    end
  end

  defp unfinished(name) do
    Enum.reduce_while(@unfinished, {:ok, []}, fn state, {:ok, views} ->
      case pages(name, state, nil) do
        {:ok, more} -> {:cont, {:ok, more ++ views}}
        error -> {:halt, error}
      end
    end)
  end

  defp pages(name, state, before) do
    with {:ok, %{"jobs" => jobs, "next" => next}} <-
           Engine.call(name, :list, [%{state: state, limit: 200, before: before}]),
         {:ok, more} <- if(next, do: pages(name, state, next), else: {:ok, []}) do
      {:ok, jobs ++ more}
    end
  end

  defp signed(table, id) do
    case :ets.lookup(table, {:job, id}) do
      [{_key, client, :detached}] -> {client, :detached}
      [{_key, client, askers}] -> {client, MapSet.new(askers)}
      [] -> nil
    end
  end

  # A row of a job that is in flight is kept: its answer is about to arrive.
  defp forget_ended(table, %{submissions: submissions} = ledger) when submissions == %{} do
    for [id] <- :ets.match(table, {{:job, :"$1"}, :_, :_}), not is_map_key(ledger.jobs, id) do
      :ets.delete(table, {:job, id})
    end
  end

  defp forget_ended(_table, _ledger), do: :ok

  # A process that is dead already is reported dead at once.
  defp monitor_askers(state, ids) do
    askers = for id <- ids, %{askers: %MapSet{} = askers} <- [state.ledger.jobs[id]], pid <- askers, do: pid

    monitors =
      Enum.reduce(askers, state.monitors, fn pid, monitors ->
        Map.put_new_lazy(monitors, pid, fn -> Process.monitor(pid) end)
      end)

    # Askers that died while nobody was there to cancel for them.
    for id <- ids, %{askers: %MapSet{} = askers} <- [state.ledger.jobs[id]], MapSet.size(askers) == 0 do
      cancel(state, id)
    end

    %{state | monitors: monitors}
  end

  defp release_askers(state, %{askers: %MapSet{} = askers}) do
    left = Ledger.askers(state.ledger)

    Enum.reduce(askers, state, fn pid, state ->
      if MapSet.member?(left, pid) do
        state
      else
        {monitor, monitors} = Map.pop(state.monitors, pid)
        if monitor, do: Process.demonitor(monitor, [:flush])
        %{state | monitors: monitors}
      end
    end)
  end

  defp release_askers(state, _job), do: state

  # While the engine is away this does nothing; what nobody asks for is cancelled when the queue takes jobs up again.
  defp cancel(state, id) do
    name = state.name
    {:ok, _} = Task.Supervisor.start_child(tasks(state), fn -> Engine.call(name, :cancel, [id]) end)
  end

  defp changed(%{dirty?: true} = state), do: state

  defp changed(state) do
    send(self(), :arrange)
    %{state | dirty?: true}
  end

  # Told again when the running task is done.
  defp arrange(%{arranging: {_ref, _order}} = state), do: state

  defp arrange(%{ledger: %{order: order}, name: name} = state) do
    wanted = Order.to_list(order)

    if wanted == [] or (state.arranged && wanted == Order.implied(order, state.arranged)) do
      state
    else
      task = async(state, fn -> tell_order(name, wanted) end)
      %{state | arranging: {task.ref, wanted}}
    end
  end

  defp tell_order(name, ids) do
    began = System.monotonic_time()
    told = Engine.call(name, :arrange, [ids])
    measurements = %{duration: System.monotonic_time() - began, count: length(ids)}
    Telemetry.execute([:sango, :queue, :arrange], measurements, %{name: name})
    told
  end

  defp async(state, function), do: Task.Supervisor.async_nolink(tasks(state), function)
  defp tasks(state), do: Supervisor.via(state.name, :tasks)
end
