defmodule Sango.Queue.OrderTest do
  use ExUnit.Case, async: true

  import Sango.Property

  alias Sango.Queue.Order

  doctest Order

  test "a client with many jobs does not hold up another's only one" do
    order = Enum.reduce(1..100, Order.new(), &Order.put(&2, "a#{&1}", :ann, 0, &1))
    order = Order.put(order, "b", :bob, 0, 101)
    assert Enum.take(Order.to_list(order), 3) == ["a1", "b", "a2"]
    # Once a job of hers runs, it is his turn.
    assert hd(Order.to_list(Order.start(order, "a1"))) == "b"
  end

  test "turns at a high priority count at the low ones" do
    order =
      Order.new()
      |> Order.put("a-high", :ann, 1, 1)
      |> Order.put("a-low", :ann, 0, 2)
      |> Order.put("b-low", :bob, 0, 3)

    assert Order.to_list(order) == ["a-high", "b-low", "a-low"]
  end

  test "a job that is put in again keeps its age, and its client is not served twice for it" do
    order = Order.new() |> Order.put(1, :ann, 0, 1) |> Order.put(2, :ann, 0, 2) |> Order.start(1)
    order = Order.put(order, 1, :ann, 0, 1)
    assert Order.to_list(order) == [1, 2]
    assert Order.size(order) == 2
    assert Order.to_list(Order.delete(order, 1)) == [2]
    assert Order.start(order, :unknown) == order
  end

  test "clients that are gone are forgotten" do
    order =
      Enum.reduce(1..10_000, Order.new(), fn n, order ->
        order |> Order.put(n, "client #{n}", 0, n) |> Order.start(n)
      end)

    assert :erts_debug.flat_size(order) < 100_000
    assert Order.size(order) == 0
  end

  test "the order is what serving job by job gives" do
    for_all(300, fn ->
      order = random_order()
      assert Order.to_list(order) == serve_all(order, [])
    end)
  end

  test "every waiting job is named once, higher priorities first, and each client's by age" do
    for_all(300, fn ->
      order = random_order()
      ids = Order.to_list(order)
      assert Enum.sort(ids) == order.waiting |> Map.keys() |> Enum.sort()
      jobs = Enum.map(ids, &order.waiting[&1])
      priorities = Enum.map(jobs, &elem(&1, 0))
      assert priorities == Enum.sort(priorities, :desc)

      for {_line, jobs} <- Enum.group_by(jobs, fn {priority, client, _age} -> {priority, client} end) do
        ages = Enum.map(jobs, &elem(&1, 2))
        assert ages == Enum.sort(ages)
      end
    end)
  end

  test "nobody waits for more than one job of each other client" do
    for_all(300, fn ->
      order = random_order()
      jobs = order |> Order.to_list() |> Enum.map(&order.waiting[&1])

      for {_priority, jobs} <- Enum.group_by(jobs, &elem(&1, 0)) do
        clients = Enum.map(jobs, &elem(&1, 1))

        # Between two jobs of a client that both wait, another client that waits too is served exactly once.
        for client <- Enum.uniq(clients), other <- Enum.uniq(clients), client != other do
          last = length(clients) - 1 - Enum.find_index(Enum.reverse(clients), &(&1 == other))
          turns = for {^client, at} <- Enum.with_index(clients), at < last, do: at

          for [from, to] <- Enum.chunk_every(turns, 2, 1, :discard) do
            assert Enum.count(Enum.slice(clients, from..to), &(&1 == other)) == 1
          end
        end
      end
    end)
  end

  test "what the engine does by itself is known" do
    for_all(200, fn ->
      order = random_order()
      told = Enum.shuffle(Map.keys(order.waiting)) |> Enum.take(between(0, 5))
      implied = Order.implied(order, told ++ [:gone])
      assert Enum.take(implied, length(told)) == told
      rest = Enum.drop(implied, length(told))

      key = fn id ->
        {priority, _client, age} = order.waiting[id] && order.waiting[id]
        {-priority, age}
      end

      assert rest == Enum.sort_by(Map.keys(order.waiting) -- told, key)
    end)
  end

  # Takes the first by the definition, with nothing of the implementation: of the highest priority, the client that was
  # served longest ago, and of that its oldest job.
  defp serve_all(%{waiting: waiting}, ids) when waiting == %{}, do: Enum.reverse(ids)

  defp serve_all(order, ids) do
    top = order.waiting |> Enum.map(fn {_id, {priority, _, _}} -> priority end) |> Enum.max()
    candidates = for {id, {^top, client, age}} <- order.waiting, do: {id, client, age}
    oldest = fn client -> for({_id, ^client, age} <- candidates, do: age) |> Enum.min() end

    {id, _client, _age} =
      Enum.min_by(candidates, fn {_id, client, age} ->
        {Map.get(order.served, client, 0), oldest.(client), age}
      end)

    serve_all(Order.start(order, id), [id | ids])
  end

  defp random_order do
    Enum.reduce(1..between(1, 60), Order.new(), fn n, order ->
      case between(1, 10) do
        1 -> Order.delete(order, between(1, n))
        2 -> Order.start(order, between(1, n))
        3 -> Enum.reduce(Enum.take(Order.to_list(order), 2), order, &Order.start(&2, &1))
        _ -> Order.put(order, n, one_of([:a, :b, :c, "d", nil]), one_of([0, 0, 0, 5, -3]), n)
      end
    end)
  end
end
