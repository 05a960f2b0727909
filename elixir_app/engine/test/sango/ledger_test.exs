defmodule Sango.Queue.LedgerTest do
  use ExUnit.Case, async: true

  import Sango.Property

  alias Sango.Queue.{Ledger, Order}

  defp view(id, state, priority \\ 0) do
    %{"id" => id, "state" => state, "created_at" => 0, "request" => %{"priority" => priority}}
  end

  defp ticket(client, asker \\ :detached), do: %{client: client, asker: asker}

  defp begin(ledger, ticket) do
    ref = make_ref()
    {ref, Ledger.begin(ledger, ref, ticket)}
  end

  defp see(ledger, view), do: ledger |> Ledger.see(view) |> elem(1)

  test "submissions in flight and each client's share are bounded" do
    ledger = Ledger.new(3, 2)
    {_, ledger} = begin(ledger, ticket(:ann))
    assert :ok = Ledger.admit(ledger, ticket(:ann))
    {_, ledger} = begin(ledger, ticket(:ann))
    assert {:error, %{code: "queue_full", status: 503, message: message}} = Ledger.admit(ledger, ticket(:ann))
    assert message =~ "this client has 2 jobs"
    assert :ok = Ledger.admit(ledger, ticket(:bob))
    {ref, ledger} = begin(ledger, ticket(:bob))
    assert {:error, %{code: "queue_full", message: message}} = Ledger.admit(ledger, ticket(:cid))
    assert message =~ "3 jobs are just being handed in"

    # Stored: no longer in flight, but still the client's.
    {ledger, false} = Ledger.settle(ledger, ref, {:ok, {view("1", "queued"), true}})
    assert Ledger.load(ledger, :bob) == 1
    assert :ok = Ledger.admit(ledger, ticket(:bob))
    assert Ledger.load(see(ledger, view("1", "finished")), :bob) == 0
  end

  test "a refused submission leaves nothing behind" do
    ledger = Ledger.new(3, 2)
    {ref, busy} = begin(ledger, ticket(:ann))
    assert {^ledger, false} = Ledger.settle(busy, ref, {:error, :any})
  end

  test "whichever comes first, the answer or the stream, the job is the same" do
    for_all(300, fn ->
      {ref, ledger} = begin(Ledger.new(9, 9), ticket(:ann, self()))
      {_other, ledger} = begin(ledger, ticket(:bob))
      stream = Enum.take(["queued", "running", "finished"], between(0, 3))
      answer_at = between(0, length(stream))
      # The store's answer shows the job as it was when it was stored, or later.
      answered = one_of(["queued", "running"])
      {before, later} = Enum.split(stream, answer_at)

      ledger = Enum.reduce(before, ledger, &see(&2, view("1", &1)))
      {ledger, false} = Ledger.settle(ledger, ref, {:ok, {view("1", answered), true}})
      ledger = Enum.reduce(later, ledger, &see(&2, view("1", &1)))

      case List.last(stream) do
        "finished" ->
          assert ledger.jobs == %{}
          assert Order.size(ledger.order) == 0

        last ->
          job = ledger.jobs["1"]
          assert %{client: :ann} = job
          assert job.askers == MapSet.new([self()])
          assert job.state == if(last == "running", do: :running, else: :waiting)
          assert Order.member?(ledger.order, "1") == (job.state == :waiting)
      end
    end)
  end

  test "a client whose job was taken before its answer came has been served" do
    {ref, ledger} = begin(Ledger.new(9, 9), ticket(:ann))
    ledger = ledger |> see(view("1", "queued")) |> see(view("1", "running"))
    {ledger, _} = Ledger.settle(ledger, ref, {:ok, {view("1", "queued"), true}})

    ledger =
      for {id, client} <- [{"2", :ann}, {"3", :bob}], reduce: ledger do
        ledger ->
          {ref, ledger} = begin(ledger, ticket(client))
          {ledger, _} = Ledger.settle(ledger, ref, {:ok, {view(id, "queued"), true}})
          ledger
      end

    assert Order.to_list(ledger.order) == ["3", "2"]
  end

  test "news that no answer claims is kept no longer than an answer can be on its way" do
    {first, ledger} = begin(Ledger.new(9, :infinity), ticket(:ann))
    ledger = Enum.reduce(1..50, ledger, &see(&2, view("#{&1}", "finished")))
    assert {:nothing, ledger} = Ledger.see(ledger, view("another's", "queued"))
    assert map_size(ledger.early) == 51
    {second, ledger} = begin(ledger, ticket(:ann))
    {ledger, _} = Ledger.settle(ledger, first, {:error, :any})
    assert ledger.early == %{}
    assert Order.to_list(ledger.order) == ["another's"]
    {ledger, _} = Ledger.settle(ledger, second, {:error, :any})
    assert see(ledger, view("1", "finished")).early == %{}
  end

  test "a job lives as long as one of its askers" do
    [a, b] = for _ <- 1..2, do: spawn(fn -> :ok end)
    {ref, ledger} = begin(Ledger.new(9, 9), ticket(:ann, a))
    {ledger, _} = Ledger.settle(ledger, ref, {:ok, {view("1", "queued"), true}})
    {ref, ledger} = begin(ledger, ticket(:bob, b))
    {ledger, _} = Ledger.settle(ledger, ref, {:ok, {view("1", "queued"), false}})
    assert ledger.jobs["1"].client == :ann
    assert {[], ledger} = Ledger.abandon(ledger, a)
    assert {["1"], ledger} = Ledger.abandon(ledger, b)
    assert {[], _} = Ledger.abandon(ledger, b)
  end

  test "asking detached for a job that is there detaches it" do
    {ref, ledger} = begin(Ledger.new(9, 9), ticket(:ann, self()))
    {ledger, _} = Ledger.settle(ledger, ref, {:ok, {view("1", "queued"), true}})
    {ref, ledger} = begin(ledger, ticket(:bob))
    {ledger, _} = Ledger.settle(ledger, ref, {:ok, {view("1", "queued"), false}})
    assert ledger.jobs["1"].askers == :detached
    assert {[], _} = Ledger.abandon(ledger, self())
  end

  test "a job whose run did not come to an end waits again" do
    ledger =
      Ledger.new(9, 9) |> see(view("1", "queued")) |> see(view("2", "queued")) |> see(view("1", "running"))

    assert Order.to_list(ledger.order) == ["2"]
    assert {:waits_again, ledger} = Ledger.see(ledger, view("1", "interrupted"))
    assert Order.to_list(ledger.order) == ["1", "2"]
  end

  test "the store's word counts after news was lost" do
    {ref, ledger} = begin(Ledger.new(9, 9), ticket(:ann, self()))
    ledger = ledger |> see(view("1", "running")) |> see(view("2", "running"))

    ledger =
      Ledger.take_up(ledger, [view("2", "queued"), view("3", "running")], fn "3" ->
        {:bob, MapSet.new([self()])}
      end)

    assert Map.keys(ledger.jobs) == ["2", "3"]
    assert Order.to_list(ledger.order) == ["2"]
    assert %{client: :bob, state: :running} = ledger.jobs["3"]
    # Its end may be among what was lost.
    assert {_ledger, true} = Ledger.settle(ledger, ref, {:ok, {view("4", "queued"), true}})
  end
end
