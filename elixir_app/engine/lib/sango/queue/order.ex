defmodule Sango.Queue.Order do
  @moduledoc """
  In which order waiting jobs run: the fair queue as plain data, without a process.

  The highest priority comes first. Within a priority the clients take turns, the one served longest ago first (one
  that was never served before all others), and within a client the oldest job comes first. So a client with a hundred
  jobs does not hold up another's only one.

      iex> alias Sango.Queue.Order
      iex> order =
      ...>   Order.new()
      ...>   |> Order.put("a1", "ann", 0, 1)
      ...>   |> Order.put("a2", "ann", 0, 2)
      ...>   |> Order.put("b1", "bob", 0, 3)
      ...>   |> Order.put("b2", "bob", 5, 4)
      iex> Order.to_list(order)
      ["b2", "a1", "b1", "a2"]
  """

  # A client that has nothing waiting is remembered while it is among this many served most recently. Forgetting one
  # puts it first in line once, and keeps the memory bounded whatever names clients have.
  @remembered 1_024

  @enforce_keys [:waiting, :served, :tick]
  defstruct @enforce_keys

  @typedoc "A job's id."
  @type id :: term
  @typedoc "Whom a job counts for."
  @type client :: term
  @typedoc "A job's age: of two jobs the one with the smaller age is older."
  @type age :: term

  @opaque t :: %__MODULE__{
            waiting: %{id => {priority :: integer, client, age}},
            served: %{client => tick :: pos_integer},
            tick: non_neg_integer
          }

  @doc "Nothing waits, and nobody has been served."
  @spec new() :: t
  def new, do: %__MODULE__{waiting: %{}, served: %{}, tick: 0}

  @doc "Adds a waiting job. One that waits already gets the new client, priority and age."
  @spec put(t, id, client, integer, age) :: t
  def put(%__MODULE__{} = order, id, client, priority, age) when is_integer(priority) do
    %{order | waiting: Map.put(order.waiting, id, {priority, client, age})}
  end

  @doc "Takes a job out that no longer waits, without its client having been served."
  @spec delete(t, id) :: t
  def delete(%__MODULE__{} = order, id), do: %{order | waiting: Map.delete(order.waiting, id)}

  @doc "A job has begun to run: its client has been served and goes to the end of the line."
  @spec start(t, id) :: t
  def start(%__MODULE__{} = order, id) do
    case Map.pop(order.waiting, id) do
      {nil, _waiting} ->
        order

      {{_priority, client, _age}, waiting} ->
        serve(%{order | waiting: waiting}, client)
    end
  end

  @doc "A client has been served with a job that never waited here: it goes to the end of the line."
  @spec serve(t, client) :: t
  def serve(%__MODULE__{} = order, client) do
    tick = order.tick + 1
    forget(%{order | served: Map.put(order.served, client, tick), tick: tick})
  end

  @doc "Whether the job waits."
  @spec member?(t, id) :: boolean
  def member?(%__MODULE__{} = order, id), do: is_map_key(order.waiting, id)

  @doc "How many jobs wait."
  @spec size(t) :: non_neg_integer
  def size(%__MODULE__{} = order), do: map_size(order.waiting)

  @doc "The waiting jobs, the one that runs next first."
  @spec to_list(t) :: [id]
  def to_list(%__MODULE__{} = order) do
    order.waiting
    |> Enum.group_by(fn {_id, {priority, _client, _age}} -> priority end)
    |> Enum.sort_by(fn {priority, _jobs} -> -priority end)
    |> Enum.flat_map_reduce({order.served, order.tick}, fn {_priority, jobs}, turns ->
      take_turns(jobs, turns)
    end)
    |> elem(0)
  end

  @doc """
  The order that the engine keeps by itself: the jobs of `arranged` that still wait, in that order, then the others by
  priority and age. When it equals `to_list/1` there is nothing to tell the engine.
  """
  @spec implied(t, [id]) :: [id]
  def implied(%__MODULE__{} = order, arranged) do
    placed = Enum.filter(arranged, &member?(order, &1))

    others =
      order.waiting
      |> Map.drop(placed)
      |> Enum.sort_by(fn {_id, {priority, _client, age}} -> {-priority, age} end)
      |> Enum.map(fn {id, _job} -> id end)

    placed ++ others
  end

  # The jobs of one priority. The turns taken here count for the priorities below.
  defp take_turns(jobs, {served, tick}) do
    jobs
    |> Enum.group_by(fn {_id, {_priority, client, _age}} -> client end, fn {id, {_, _, age}} -> {age, id} end)
    |> Enum.map(fn {client, jobs} -> {client, Enum.sort(jobs)} end)
    |> Enum.sort_by(fn {client, [{oldest, _id} | _]} -> {Map.get(served, client, 0), oldest} end)
    |> round_robin([], served, tick)
  end

  defp round_robin([], ids, served, tick), do: {Enum.reverse(ids), {served, tick}}

  defp round_robin(lines, ids, served, tick) do
    {lines, {ids, served, tick}} =
      Enum.flat_map_reduce(lines, {ids, served, tick}, fn {client, [{_age, id} | rest]},
                                                          {ids, served, tick} ->
        turn = {[id | ids], Map.put(served, client, tick + 1), tick + 1}
        {if(rest == [], do: [], else: [{client, rest}]), turn}
      end)

    round_robin(lines, ids, served, tick)
  end

  defp forget(%{served: served} = order) when map_size(served) <= 2 * @remembered, do: order

  defp forget(order) do
    waiting = MapSet.new(order.waiting, fn {_id, {_priority, client, _age}} -> client end)
    oldest = order.tick - @remembered

    served =
      Map.filter(order.served, fn {client, tick} -> tick > oldest or MapSet.member?(waiting, client) end)

    %{order | served: served}
  end
end
