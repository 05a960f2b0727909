defmodule Sango.Queue.Ledger do
  @moduledoc """
  What the queue knows, as plain data: the submissions on their way to the store, the unfinished jobs with the client
  and the askers of each, and the fair order of those that wait.

  News of a job comes by two ways that do not wait for each other: the answer to its submission, and the engine's stream
  of changed jobs. The ledger puts them together whichever comes first.
  """

  alias Sango.Error
  alias Sango.Queue.Order

  @enforce_keys [:max_unfinished, :max_per_client]
  defstruct max_unfinished: nil,
            max_per_client: nil,
            order: Order.new(),
            jobs: %{},
            submissions: %{},
            early: %{},
            clock: 0

  @typedoc "Who asked for a job: the processes it lives with, or nobody, for one that lives by itself."
  @type askers :: MapSet.t(pid) | :detached
  @typedoc "What a submission says about the job beside the request."
  @type ticket :: %{client: term, asker: pid | :detached}
  @type job :: %{client: term, askers: askers, state: :waiting | :running, priority: integer, age: term}

  @type t :: %__MODULE__{
          max_unfinished: pos_integer,
          max_per_client: pos_integer | :infinity,
          order: Order.t(),
          jobs: %{String.t() => job},
          submissions: %{reference => %{ticket: ticket, since: non_neg_integer, recheck?: boolean}},
          early: %{String.t() => {clock :: non_neg_integer, :ended | {:waits, map}}},
          clock: non_neg_integer
        }

  @waiting ["queued", "interrupted"]

  @doc "An empty ledger with these bounds."
  @spec new(pos_integer, pos_integer | :infinity) :: t
  def new(max_unfinished, max_per_client) do
    %__MODULE__{max_unfinished: max_unfinished, max_per_client: max_per_client}
  end

  @doc """
  Whether a submission may go to the store now.

  The store itself has the last word on the number of unfinished jobs, under its lock, because only it knows whether a
  request is new work or is answered by a job that is there. The bound here is on submissions in flight: past it
  one is refused at once, without touching the disk.
  """
  @spec admit(t, ticket) :: :ok | {:error, Error.t()}
  def admit(%__MODULE__{} = ledger, %{client: client}) do
    in_flight = map_size(ledger.submissions)

    cond do
      in_flight >= ledger.max_unfinished ->
        {:error,
         Error.queue_full("#{in_flight} jobs are just being handed in, as many as are taken: try again later")}

      ledger.max_per_client != :infinity and load(ledger, client) >= ledger.max_per_client ->
        message = "this client has #{ledger.max_per_client} jobs waiting or running, as many as one may have"
        {:error, Error.queue_full(message <> ": wait for one to end, or cancel one")}

      true ->
        :ok
    end
  end

  @doc "A submission is on its way to the store."
  @spec begin(t, reference, ticket) :: t
  def begin(%__MODULE__{} = ledger, ref, ticket) do
    submission = %{ticket: ticket, since: ledger.clock, recheck?: false}
    %{ledger | submissions: Map.put(ledger.submissions, ref, submission)}
  end

  @doc """
  The store has answered. Also says whether the ledger may now know too much (news was lost while the submission was in
  flight), so that `take_up/3` should follow.
  """
  @spec settle(t, reference, {:ok, {job :: map, created? :: boolean}} | {:error, term}) ::
          {t, recheck? :: boolean}
  def settle(%__MODULE__{} = ledger, ref, answer) do
    {submission, submissions} = Map.pop!(ledger.submissions, ref)
    ledger = %{ledger | submissions: submissions}

    ledger =
      case answer do
        {:ok, {job, created?}} -> ledger |> enter(job) |> sign(job["id"], submission.ticket, created?)
        {:error, _reason} -> ledger
      end

    {settle_early(ledger), submission.recheck?}
  end

  @doc """
  A job as the engine shows it. Says what that changed: `:waits`, `:waits_again` (its run did not come to an end),
  `:started`, `{:ended, job}` (what was known of it), or `:nothing`.
  """
  @spec see(t, map) :: {:waits | :waits_again | :started | {:ended, job | nil} | :nothing, t}
  def see(%__MODULE__{} = ledger, %{"id" => id, "state" => state} = view) do
    known = ledger.jobs[id]

    cond do
      state in @waiting and known == nil and ledger.submissions != %{} ->
        {:nothing, early(ledger, id, {:waits, view})}

      state in @waiting and known == nil ->
        {:waits, put(ledger, view, :waiting)}

      state in @waiting and known.state == :running ->
        {:waits_again, put(ledger, view, :waiting)}

      state == "running" and known[:state] != :running ->
        {:started, put(ledger, view, :running)}

      state in @waiting or state == "running" ->
        {:nothing, ledger}

      true ->
        {{:ended, known}, drop(ledger, id)}
    end
  end

  @doc """
  Takes the store's word for which jobs are unfinished: after a start, and after news was lost. `signed` gives the
  client and askers of a job that this ledger does not know, or `nil` when nobody does.
  """
  @spec take_up(t, [map], (String.t() -> {client :: term, askers} | nil)) :: t
  def take_up(%__MODULE__{} = ledger, views, signed) do
    ids = MapSet.new(views, & &1["id"])
    gone = for {id, _job} <- ledger.jobs, not MapSet.member?(ids, id), do: id
    ledger = Enum.reduce(gone, ledger, &drop(&2, &1))

    ledger =
      Enum.reduce(views, ledger, fn %{"id" => id} = view, ledger ->
        ledger = if is_map_key(ledger.jobs, id), do: ledger, else: enter_signed(ledger, view, signed.(id))
        {_change, ledger} = see(ledger, view)
        ledger
      end)

    submissions =
      Map.new(ledger.submissions, fn {ref, submission} -> {ref, %{submission | recheck?: true}} end)

    %{ledger | submissions: submissions}
  end

  @doc "A process has died: the jobs that nobody asks for any more."
  @spec abandon(t, pid) :: {[String.t()], t}
  def abandon(%__MODULE__{} = ledger, pid) do
    Enum.reduce(ledger.jobs, {[], ledger}, fn
      {_id, %{askers: :detached}}, acc ->
        acc

      {id, %{askers: askers}}, {ids, ledger} ->
        left = MapSet.delete(askers, pid)
        ids = if MapSet.member?(askers, pid) and MapSet.size(left) == 0, do: [id | ids], else: ids
        {ids, update(ledger, id, %{askers: left})}
    end)
  end

  @doc "Every process that some job lives with."
  @spec askers(t) :: MapSet.t(pid)
  def askers(%__MODULE__{} = ledger) do
    for {_id, %{askers: %MapSet{} = askers}} <- ledger.jobs, pid <- askers, into: MapSet.new(), do: pid
  end

  @doc "How many jobs of the client are unfinished or on their way."
  @spec load(t, term) :: non_neg_integer
  def load(%__MODULE__{} = ledger, client) do
    jobs = Enum.count(ledger.jobs, fn {_id, job} -> job.client == client end)
    jobs + Enum.count(ledger.submissions, fn {_ref, submission} -> submission.ticket.client == client end)
  end

  # An answer may be older than what the stream has told already, so it only enters a job that is still unknown. That
  # it runs, or has ended, is for the stream to say.
  defp enter(ledger, %{"id" => id, "state" => state} = view) do
    cond do
      is_map_key(ledger.jobs, id) -> ledger
      match?({_clock, :ended}, ledger.early[id]) -> ledger
      state in ["running" | @waiting] -> put(ledger, view, :waiting)
      true -> ledger
    end
  end

  defp enter_signed(ledger, _view, nil), do: ledger

  defp enter_signed(ledger, view, {client, askers}) do
    ledger |> put(view, :waiting) |> update(view["id"], %{client: client, askers: askers})
  end

  # A job that was there already keeps its client. It then lives as long as any of its askers.
  defp sign(ledger, id, ticket, created?) do
    case ledger.jobs[id] do
      nil ->
        ledger

      job when created? ->
        ledger |> serve(job, ticket) |> update(id, %{client: ticket.client, askers: asker(ticket)})

      %{askers: :detached} ->
        ledger

      %{askers: askers} ->
        update(ledger, id, %{askers: join(askers, asker(ticket))})
    end
  end

  # One that a worker took before its answer was here.
  defp serve(ledger, %{state: :running}, ticket),
    do: %{ledger | order: Order.serve(ledger.order, ticket.client)}

  defp serve(ledger, _job, _ticket), do: ledger

  defp asker(%{asker: :detached}), do: :detached
  defp asker(%{asker: pid}), do: MapSet.new([pid])

  defp join(_askers, :detached), do: :detached
  defp join(askers, more), do: MapSet.union(askers, more)

  defp put(ledger, view, state) do
    id = view["id"]
    new = %{client: nil, askers: :detached, priority: priority(view), age: {view["created_at"], id}}
    job = ledger.jobs |> Map.get(id, new) |> Map.put(:state, state)
    ledger = %{ledger | jobs: Map.put(ledger.jobs, id, job), early: Map.delete(ledger.early, id)}

    case state do
      :waiting -> place(ledger, id)
      :running -> %{ledger | order: Order.start(ledger.order, id)}
    end
  end

  defp update(ledger, id, changes) do
    ledger = %{ledger | jobs: Map.update!(ledger.jobs, id, &Map.merge(&1, changes))}
    if ledger.jobs[id].state == :waiting, do: place(ledger, id), else: ledger
  end

  defp place(ledger, id) do
    %{client: client, priority: priority, age: age} = ledger.jobs[id]
    %{ledger | order: Order.put(ledger.order, id, client, priority, age)}
  end

  defp drop(ledger, id) do
    ledger = %{ledger | jobs: Map.delete(ledger.jobs, id), order: Order.delete(ledger.order, id)}
    if ledger.submissions == %{}, do: ledger, else: early(ledger, id, :ended)
  end

  # News of a job whose answer may be on its way: that it waits is not yet told apart from other clients' jobs, and that
  # it has ended must not be undone by an answer that shows it alive.
  defp early(ledger, id, news) do
    clock = ledger.clock + 1
    %{ledger | early: Map.put(ledger.early, id, {clock, news}), clock: clock}
  end

  # What no submission that is still in flight can be the answer to.
  defp settle_early(%{early: early} = ledger) when early == %{}, do: ledger

  defp settle_early(ledger) do
    oldest =
      ledger.submissions |> Enum.map(fn {_ref, %{since: since}} -> since end) |> Enum.min(fn -> :infinity end)

    {settled, early} = Enum.split_with(ledger.early, fn {_id, {clock, _news}} -> clock <= oldest end)

    Enum.reduce(settled, %{ledger | early: Map.new(early)}, fn
      {_id, {_clock, :ended}}, ledger -> ledger
      {_id, {_clock, {:waits, view}}}, ledger -> put(ledger, view, :waiting)
    end)
  end

  defp priority(%{"request" => %{"priority" => priority}}) when is_integer(priority), do: priority
  defp priority(_view), do: 0
end
